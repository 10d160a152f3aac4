//! Passwords: typed unseen and twice at a terminal, or one line from a pipe. Never an argument: everybody can read those.

use std::io::{self, BufRead, IsTerminal, Read, Stdin};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use super::{CommandResult, print_error_line};
use crate::auth::users;

/// What an interrupt gives where it is read as a character.
const INTERRUPT_BYTE: u8 = 3;

/// `hash-password`.
pub(super) fn hash() -> CommandResult {
    let hash = users::hash_password(&read()?).map_err(|error| error.to_string())?;
    Ok(format!("{hash}\n"))
}

/// A new password.
pub(super) fn read() -> Result<String, String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return check_length(read_line(&stdin)?);
    }
    let input = HiddenInput::new(&stdin).map_err(|error| format!("the terminal cannot hide what is typed: {error}"))?;
    let password = input.prompt("Password (not shown): ")?;
    let again = input.prompt("The same again: ")?;
    if password == again {
        check_length(password)
    } else {
        Err("the two are not the same; nothing was changed".to_owned())
    }
}

fn check_length(password: String) -> Result<String, String> {
    match password.len() {
        1..=users::MAX_PASSWORD_BYTES => Ok(password),
        _ => Err(format!(
            "a password has 1 to {} bytes: type it, or pipe one line into standard input",
            users::MAX_PASSWORD_BYTES
        )),
    }
}

/// One line, bounded.
fn read_line(stdin: &Stdin) -> Result<String, String> {
    let mut line = String::new();
    let most = users::MAX_PASSWORD_BYTES as u64 + 3;
    stdin.lock().take(most).read_line(&mut line).map_err(|error| format!("standard input: {error}"))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not show what is typed. It is as it was when this is dropped.
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
        // An interrupt would end us with the terminal still mute; so it ends the line instead.
        modes.local_modes.remove(LocalModes::ISIG);
        modes.special_codes[SpecialCodeIndex::VEOL] = modes.special_codes[SpecialCodeIndex::VINTR];
        tcsetattr(stdin, OptionalActions::Flush, &modes)?;
        Ok(Self { stdin, before })
    }

    fn prompt(&self, prompt: &str) -> Result<String, String> {
        let mut stderr = io::stderr();
        // A prompt that nobody sees is no reason to give up.
        let _ = io::Write::write_all(&mut stderr, prompt.as_bytes());
        let mut bytes = Vec::new();
        let most = users::MAX_PASSWORD_BYTES + 2;
        let mut input = self.stdin.lock();
        // Byte for byte: the line ends with an interrupt, too.
        while bytes.len() < most {
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
