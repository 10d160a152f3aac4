//! `init`: a configuration with random secrets and a demo user, made once and then left alone. Several hubs share it.

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::{CommandResult, escape_control, secrets};
use crate::auth::users;

/// Writes `wardcast.toml` and `users.toml` into `dir`, unless they are there, and says how to log in and publish.
pub(super) fn create_configuration(dir: &Path, user: &str, base_url: &str) -> CommandResult {
    if !users::is_valid_name(user) {
        return Err("--user: a name has 1 to 255 bytes and no control characters".into());
    }
    let io_error = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(dir).map_err(|error| io_error(dir, error))?;
    let (settings, users) = (dir.join("wardcast.toml"), dir.join("users.toml"));
    if settings.exists() {
        return Ok(format!("{} is there already and stays as it is\n", settings.display()));
    }
    let (api_key, password) = (secrets::random_hex()?, secrets::random_password()?);
    let hash = users::hash_password(&password).map_err(|error| error.to_string())?;
    let user_text = format!("[[users]]\nname = {}\npassword = \"{hash}\"\n", quoted(user));
    // The users first: a hub starts as soon as the settings are there.
    let is_new = match write_private(&users, &user_text) {
        Ok(()) => true,
        // People may be in it.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(io_error(&users, error).into()),
    };
    let settings_text = format!(
        "# Made by wardcast init. Whoever reads this file can make tokens and publish.\n\n[auth]\nhmac_secret = \"{}\"\n\n\
         [api]\nkey = \"{api_key}\"\n\n[login]\nusers_file = {}\nkey = \"{}\"\n",
        secrets::random_hex()?,
        quoted(&users.display().to_string()),
        secrets::random_hex()?,
    );
    write_private(&settings, &settings_text).map_err(|error| io_error(&settings, error))?;
    let login = if is_new { login_instructions(user, &password, base_url) } else { kept_users_notice(&users) };
    Ok(format!(
        r#"Wardcast has new secrets in {dir}. This is shown once:

{login}
  Publish to the channel "news":
    curl {base_url}/api/publish -H 'X-API-Key: {api_key}' -d '{{"channel":"news","data":{{"hello":"world"}}}}'
"#,
        dir = dir.display(),
    ))
}

fn login_instructions(user: &str, password: &str, base_url: &str) -> String {
    let body = serde_json::json!({"username": user, "password": password}).to_string();
    // As it stands in single quotes, for a shell.
    let body = body.replace('\'', r"'\''");
    format!(
        "  Log in as {user}, password {password}:\n    \
         curl {base_url}/auth/login -H 'Content-Type: application/json' -d '{body}'\n",
        user = escape_control(user),
    )
}

fn kept_users_notice(users: &Path) -> String {
    let path = users.display();
    format!(
        "  {path} was there already and stays as it is; a new password for one of its users:\n    \
         wardcast user passwd NAME --file {path}\n"
    )
}

/// TOML's basic strings are JSON's, for what names and paths hold.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A new file; nothing that is there is written over, nor what a link leads to.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
