//! Reads passwords: twice and without echo from a terminal, or one line from a pipe. Never from an argument: all users
//! of the machine can read arguments.

use std::io::{self, BufRead, IsTerminal, Read, Stdin};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use super::{CommandResult, print_error_line};
use crate::auth::users;

/// The byte of Ctrl-C when it is read as a character.
const INTERRUPT_BYTE: u8 = 3;

/// `hash-password`.
pub(super) fn hash() -> CommandResult {
    let hash = users::hash_password(&read()?).map_err(|error| error.to_string())?;
    Ok(format!("{hash}\n"))
}

/// Reads a new password.
pub(super) fn read() -> Result<String, String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return check_length(read_line(&stdin)?);
    }
    let input =
        HiddenInput::new(&stdin).map_err(|error| format!("cannot turn off the echo of the terminal: {error}"))?;
    let password = input.prompt("Password (not shown): ")?;
    let again = input.prompt("Repeat the password: ")?;
    if password == again { check_length(password) } else { Err("the passwords differ; nothing was changed".to_owned()) }
}

fn check_length(password: String) -> Result<String, String> {
    match password.len() {
        1..=users::MAX_PASSWORD_BYTES => Ok(password),
        _ => Err(format!(
            "a password must have 1 to {} bytes: type it, or pipe one line into standard input",
            users::MAX_PASSWORD_BYTES
        )),
    }
}

/// Reads one line, up to a little more than the maximum.
fn read_line(stdin: &Stdin) -> Result<String, String> {
    let mut line = String::new();
    let max_bytes = users::MAX_PASSWORD_BYTES as u64 + 3;
    stdin.lock().take(max_bytes).read_line(&mut line).map_err(|error| format!("standard input: {error}"))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal without echo. Dropping it restores the terminal.
struct HiddenInput<'a> {
    stdin: &'a Stdin,
    before: Termios,
}

impl<'a> HiddenInput<'a> {
    fn new(stdin: &'a Stdin) -> rustix::io::Result<Self> {
        let before = tcgetattr(stdin)?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ECHO);
        modes.local_modes.insert(LocalModes::ECHONL);
        // Ctrl-C would end the process without restoring the echo, so it ends the line instead.
        modes.local_modes.remove(LocalModes::ISIG);
        modes.special_codes[SpecialCodeIndex::VEOL] = modes.special_codes[SpecialCodeIndex::VINTR];
        tcsetattr(stdin, OptionalActions::Flush, &modes)?;
        Ok(Self { stdin, before })
    }

    fn prompt(&self, prompt: &str) -> Result<String, String> {
        let mut stderr = io::stderr();
        // Without stderr the prompt is invisible, but the password can still be typed.
        let _ = io::Write::write_all(&mut stderr, prompt.as_bytes());
        let mut bytes = Vec::new();
        let max_bytes = users::MAX_PASSWORD_BYTES + 2;
        let mut input = self.stdin.lock();
        // Byte by byte, because Ctrl-C also ends the line.
        while bytes.len() < max_bytes {
            let mut byte = [0];
            if input.read(&mut byte).map_err(|error| format!("standard input: {error}"))? == 0 || byte[0] == b'\n' {
                break;
            }
            bytes.push(byte[0]);
            if byte[0] == INTERRUPT_BYTE {
                print_error_line("");
                return Err("interrupted; nothing was changed".to_owned());
            }
        }
        String::from_utf8(bytes).map_err(|_| "a password must be UTF-8".to_owned())
    }
}

impl Drop for HiddenInput<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.stdin, OptionalActions::Flush, &self.before);
    }
}
