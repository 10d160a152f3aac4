//! The fuzz targets' promises, held against what is committed in `tests/fuzz/corpus`, against that with a few bytes changed,
//! and against noise. `tests/run fuzz` looks longer and further.

use std::{fs, path::PathBuf};

use proptest::{collection::vec, prelude::*, sample::Index};

#[path = "fuzz/targets/mod.rs"]
mod targets;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 10] = [
    ("channel", targets::channel),
    ("claims", targets::claims),
    ("command", targets::command),
    ("delta", targets::delta),
    ("door", targets::door),
    ("filter", targets::filter),
    ("frames", targets::frames),
    ("origin", targets::origin),
    ("protobuf", targets::protobuf),
    ("proxy", targets::proxy),
];

fn folder(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/fuzz", name].iter().collect()
}

/// The files of a folder by name, sorted.
fn files(name: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "nothing in {name}");
    files
}

/// A change of some bytes somewhere.
#[derive(Clone, Debug)]
enum Change {
    Put(Index, u8),
    Flip(Index, u8),
    Remove(Index, Index),
    Repeat(Index, Index),
    /// A piece of another sample.
    Splice(Index, Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\"\\{}[]:,.=%&;#$*\n\r \0\xff019az".as_slice())];
    prop_oneof![
        (any::<Index>(), byte).prop_map(|(at, byte)| Change::Put(at, byte)),
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        any::<(Index, Index)>().prop_map(|(from, to)| Change::Remove(from, to)),
        any::<(Index, Index)>().prop_map(|(from, to)| Change::Repeat(from, to)),
        any::<(Index, Index, Index)>().prop_map(|(at, sample, from)| Change::Splice(at, sample, from)),
    ]
}

impl Change {
    fn apply(&self, input: &mut Vec<u8>, samples: &[(String, Vec<u8>)]) {
        let span = |from: &Index, to: &Index| {
            let (from, to) = (from.index(input.len() + 1), to.index(input.len() + 1));
            from.min(to)..from.max(to)
        };
        match self {
            Self::Put(at, byte) => input.insert(at.index(input.len() + 1), *byte),
            Self::Flip(_, _) if input.is_empty() => {}
            Self::Flip(at, bit) => {
                let at = at.index(input.len());
                input[at] ^= 1 << bit;
            }
            Self::Remove(from, to) => drop(input.drain(span(from, to))),
            Self::Repeat(from, to) => {
                let (span, at) = (span(from, to), span(from, to).end);
                let piece = input[span].to_vec();
                input.splice(at..at, piece);
            }
            Self::Splice(at, sample, from) => {
                let (_, sample) = &samples[sample.index(samples.len())];
                let (at, from) = (at.index(input.len() + 1), from.index(sample.len() + 1));
                input.splice(at..at, sample[from..].iter().copied());
            }
        }
    }
}

/// A sample of the target's corpus with changes, or noise.
fn input(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let samples = files(&format!("corpus/{target}"));
    let changed = (any::<Index>(), vec(change(), 0..6)).prop_map(move |(sample, changes)| {
        let (_, mut input) = samples[sample.index(samples.len())].clone();
        changes.iter().for_each(|change| change.apply(&mut input, &samples));
        input.truncate(10_000);
        input
    });
    prop_oneof![4 => changed, 1 => vec(any::<u8>(), 0..400)]
}

#[test]
fn every_promise_holds_for_every_sample_of_the_corpus() {
    for (name, target) in TARGETS {
        for (sample, input) in files(&format!("corpus/{name}")) {
            // Captured output names the sample that is the last.
            println!("{name}: {sample}");
            target(&input);
        }
    }
}

#[test]
fn every_target_is_run_by_libfuzzer_too() {
    let manifest: toml::Table = fs::read_to_string(folder("Cargo.toml")).unwrap().parse().unwrap();
    let bins = manifest["bin"].as_array().unwrap();
    let mut named: Vec<&str> = bins.iter().map(|bin| bin["name"].as_str().unwrap()).collect();
    named.sort_unstable();
    assert_eq!(named, TARGETS.map(|(name, _)| name));
    for ((file, text), (name, _)) in files("fuzz_targets").iter().zip(TARGETS) {
        assert_eq!(*file, format!("{name}.rs"));
        assert!(String::from_utf8_lossy(text).contains(&format!("targets::{name}(data)")), "{file}");
    }
}

proptest! {
    // What is found goes into the corpus, where libFuzzer begins with it, too.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_token_comes_through_an_open_door_or_not_at_all(input in input("door")) {
        targets::door(&input);
    }

    #[test]
    fn what_a_key_holder_signs_is_bounded_and_what_he_did_not_opens_nothing(input in input("claims")) {
        targets::claims(&input);
    }

    #[test]
    fn what_is_not_granted_is_not_given_however_a_name_looks(input in input("channel")) {
        targets::channel(&input);
    }

    #[test]
    fn frames_are_judged_the_same_however_the_network_cuts_them(input in input("frames")) {
        targets::frames(&input);
    }

    #[test]
    fn a_line_is_one_command_and_its_data_stays_inside_a_push(input in input("command")) {
        targets::command(&input);
    }

    #[test]
    fn a_delta_makes_its_target_and_noise_makes_no_more_than_asked(input in input("delta")) {
        targets::delta(&input);
    }

    #[test]
    fn a_filter_says_what_its_tree_says(input in input("filter")) {
        targets::filter(&input);
    }

    #[test]
    fn a_protobuf_command_means_what_it_means_in_json(input in input("protobuf")) {
        targets::protobuf(&input);
    }

    #[test]
    fn an_origin_has_one_form_and_no_look_alike(input in input("origin")) {
        targets::origin(&input);
    }

    #[test]
    fn exactly_a_proxy_header_is_read(input in input("proxy")) {
        targets::proxy(&input);
    }
}
