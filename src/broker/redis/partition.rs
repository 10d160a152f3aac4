//! The partitions of a Redis Cluster: which one a channel belongs to, and the hash tag that brings everything of a partition
//! into one slot. Channels share the slots of the partitions, because one SSUBSCRIBE may name several channels of one slot
//! only: with a slot per channel, a node of 100,000 channels would send 100,000 commands after each reconnect.
//!
//! Both functions are part of the layout of keys in Redis ([`names`](super::names)), so all nodes and releases must agree on
//! them. There is no I/O here.

/// Slots of a Redis Cluster.
pub(super) const SLOTS: usize = 16_384;
/// Maximum number of partitions: one per slot.
pub(super) const MAX_PARTITIONS: usize = SLOTS;

/// A partition of a [`PartitionTable`], counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Partition(u16);

/// The partitions of an installation.
#[derive(Debug)]
pub(super) struct PartitionTable {
    /// The tag of each partition. With N partitions the slots are cut into N ranges of equal size, in order, and the tag of a
    /// partition is the smallest decimal number whose slot lies in its range. So partitions are spread over the slots
    /// evenly, and over the masters, however many there are. The numbers 0 to N-1 themselves would not be.
    tags: Vec<Box<str>>,
}

impl PartitionTable {
    /// Creates the table of `count` partitions, 1 to [`MAX_PARTITIONS`]; other values become the nearest of these.
    pub(super) fn new(count: usize) -> Self {
        let count = count.clamp(1, MAX_PARTITIONS);
        let mut tags = vec![Box::<str>::default(); count];
        let mut missing = count;
        // Ends: every slot has numbers. All 16,384 have one of at most six digits.
        for number in 0_u64.. {
            if missing == 0 {
                break;
            }
            let tag = number.to_string();
            let place = &mut tags[usize::from(slot_of(tag.as_bytes())) * count / SLOTS];
            if place.is_empty() {
                *place = tag.into();
                missing -= 1;
            }
        }
        Self { tags }
    }

    /// Returns all partitions.
    pub(super) fn all(&self) -> impl Iterator<Item = Partition> + use<> {
        // Never saturates: there are at most MAX_PARTITIONS.
        (0..u16::try_from(self.tags.len()).unwrap_or(u16::MAX)).map(Partition)
    }

    /// Returns the partition of a channel, or of another text that has to be spread over the servers.
    pub(super) fn partition_of(&self, text: &str) -> Partition {
        let scaled = (u128::from(stable_hash(text)) * self.tags.len() as u128) >> 64;
        // Less than the number of partitions.
        Partition(u16::try_from(scaled).unwrap_or_default())
    }

    /// Returns the tag of a partition of this table.
    pub(super) fn tag(&self, partition: Partition) -> &str {
        self.tags.get(usize::from(partition.0)).map_or("", |tag| tag)
    }

    /// Returns the slot of a partition of this table.
    pub(super) fn slot(&self, partition: Partition) -> u16 {
        slot_of(self.tag(partition).as_bytes())
    }
}

/// Returns the slot of a key or of a shard channel: that of its hash tag, which is what the first `{` and the next `}` enclose,
/// or of the whole name if it has none.
pub(super) fn slot_of(name: &[u8]) -> u16 {
    let tag = name.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &name[open + 1..];
        rest.iter().position(|byte| *byte == b'}').filter(|length| *length > 0).map(|length| &rest[..length])
    });
    // A multiple of the number of slots fits into 16 bits, so this is a mask.
    crc16(tag.unwrap_or(name)) % SLOTS as u16
}

/// CRC-16/XMODEM, by which Redis finds the slot.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 })
    })
}

/// Hashes a text to the same value on all nodes and in all releases: FNV-1a of 64 bits, whose upper bits are
/// weak, and then [`mix`].
pub(in crate::broker) fn stable_hash(text: &str) -> u64 {
    let fnv = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(fnv)
}

/// Changes about half of all bits for each bit that differs: the finalizer of MurmurHash3.
pub(super) fn mix(hash: u64) -> u64 {
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    /// The largest share of a master, as a multiple of the equal share, if `masters` own the slots as `redis-cli --cluster
    /// create` gives them out.
    fn largest_share(slots: impl Iterator<Item = u16>, masters: usize) -> f64 {
        let mut counts = vec![0_usize; masters];
        for slot in slots {
            counts[usize::from(slot) * masters / SLOTS] += 1;
        }
        let total: usize = counts.iter().sum();
        counts.into_iter().max().unwrap() as f64 * masters as f64 / total as f64
    }

    #[test]
    fn no_master_gets_more_than_its_share_of_partitions_and_channels() {
        for count in [64, 1000, 1024, 16_384] {
            let table = PartitionTable::new(count);
            for masters in [1, 2, 3, 5, 6, 12] {
                let share = largest_share(table.all().map(|partition| table.slot(partition)), masters);
                assert!(share <= 1.2, "{count} partitions, {masters} masters: {share}");
            }
        }
        let table = PartitionTable::new(1024);
        for form in ["#", "chat:room-#", "user:#:inbox", "канал #"] {
            let names = (0..10_000).map(|n| form.replace('#', &n.to_string()));
            let slots: Vec<u16> = names.map(|name| table.slot(table.partition_of(&name))).collect();
            for masters in [1, 2, 3, 5, 6, 12] {
                let share = largest_share(slots.iter().copied(), masters);
                assert!(share <= 1.2, "{form}, {masters} masters: {share}");
            }
        }
    }

    #[test]
    fn each_partition_has_a_slot_of_its_own() {
        for count in [1, 2, 3, 1000, 1024, 16_384] {
            let table = PartitionTable::new(count);
            let slots: HashSet<u16> = table.all().map(|partition| table.slot(partition)).collect();
            assert_eq!(slots.len(), count);
        }
    }

    #[test]
    fn resubscribing_costs_a_command_per_512_channels_and_one_per_partition() {
        let table = PartitionTable::new(1024);
        for channels in [1, 1000, 20_000_usize] {
            let mut of_slot = HashMap::<u16, usize>::new();
            for number in 0..channels {
                *of_slot.entry(table.slot(table.partition_of(&format!("channel-{number}")))).or_default() += 1;
            }
            let commands: usize = of_slot.values().map(|channels| channels.div_ceil(512)).sum();
            assert!(commands <= channels / 512 + 1024, "{channels} channels: {commands} commands");
        }
    }

    #[test]
    fn any_number_of_partitions_becomes_a_possible_one() {
        assert_eq!(PartitionTable::new(0).all().count(), 1);
        assert_eq!(PartitionTable::new(usize::MAX).all().count(), MAX_PARTITIONS);
    }

    /// Slots as `CLUSTER KEYSLOT` of Redis 7.0 names them.
    #[test]
    fn slots_are_those_of_redis() {
        for (name, slot) in [
            ("", 0),
            ("123456789", 12_739),
            ("wardcast:c:{news}", 5161),
            ("{}news", 12_011),
            ("a{", 14_311),
            ("{news", 9552),
            ("a}{b", 11_640),
            ("{a}b", 15_495),
            ("x{a}{b}", 15_495),
        ] {
            assert_eq!(slot_of(name.as_bytes()), slot, "{name:?}");
        }
    }

    /// Nodes of another release must find the same keys.
    #[test]
    fn channels_keep_their_partition_and_its_tag_for_ever() {
        let table = PartitionTable::new(1024);
        for (channel, partition, tag) in [("news", 324, "244"), ("chat:1", 322, "571"), ("чат:日本 1", 351, "1083")]
        {
            let found = table.partition_of(channel);
            assert_eq!((found, table.tag(found)), (Partition(partition), tag), "{channel}");
        }
    }
}
