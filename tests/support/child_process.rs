//! A child process that does not outlive its test.

use std::process::Child;

/// A child process that is killed at the end of its test.
pub struct KillOnDrop(pub Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // An error means that it has exited.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}
