//! Finds how many connections this machine allows a server; all servers get the same number.

/// Open files of a process that are not connections of clients: its own, and those of publishers.
const OTHER_FILES: u64 = 300;
/// What a connection may cost server, client and kernel together: more than any server measured so far has needed.
const BYTES_PER_CONNECTION: u64 = 192 * 1024;

/// What the machine has room for.
pub(super) struct Capacity {
    /// The most files that a process may open.
    pub(super) open_files: u64,
    /// The memory that programs can have.
    pub(super) available_bytes: u64,
}

impl Capacity {
    fn by_files(&self) -> u64 {
        self.open_files.saturating_sub(OTHER_FILES)
    }

    fn by_memory(&self) -> u64 {
        self.available_bytes / BYTES_PER_CONNECTION
    }

    /// The most connections of a measurement.
    pub(super) fn connections(&self) -> u64 {
        self.by_files().min(self.by_memory()).max(1)
    }

    /// Why there cannot be more.
    pub(super) fn reason(&self) -> String {
        if self.by_files() <= self.by_memory() {
            format!("`ulimit -Hn` is {}", self.open_files)
        } else {
            format!("{} MiB of memory are available", self.available_bytes / (1024 * 1024))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaller_of_files_and_memory_decides() {
        let files = Capacity { open_files: 1024, available_bytes: 1 << 40 };
        assert_eq!((files.connections(), files.reason().as_str()), (724, "`ulimit -Hn` is 1024"));
        let memory = Capacity { open_files: u64::MAX, available_bytes: 192 << 20 };
        assert_eq!((memory.connections(), memory.reason().as_str()), (1024, "192 MiB of memory are available"));
    }
}
