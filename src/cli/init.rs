//! `init`: a configuration with random secrets and a demo user, made once and then left alone. Several hubs share it.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::{Outcome, secrets};
use crate::auth::login;

/// Writes `wardcast.toml` and `users.toml` into `dir`, unless they are there, and says how to log in and publish.
pub(super) fn init(dir: &Path, user: &str, base_url: &str) -> Outcome {
    let told = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(dir).map_err(|error| told(dir, error))?;
    let (settings, users) = (dir.join("wardcast.toml"), dir.join("users.toml"));
    if settings.exists() {
        return Ok(format!("{} is there already and stays as it is\n", settings.display()));
    }
    let (api_key, password) = (secrets::random()?, secrets::password()?);
    let hash = login::hash(&password).map_err(|error| error.to_string())?;
    let user_text = format!("[[users]]\nname = {}\npassword = \"{hash}\"\n", quoted(user));
    // The users first: a hub starts as soon as the settings are there.
    write_private(&users, &user_text).map_err(|error| told(&users, error))?;
    let settings_text = format!(
        "# Made by wardcast init. Whoever reads this file can make tokens and publish.\n\n[auth]\nhmac_secret = \"{}\"\n\n\
         [api]\nkey = \"{api_key}\"\n\n[login]\nusers_file = {}\nkey = \"{}\"\n",
        secrets::random()?,
        quoted(&users.display().to_string()),
        secrets::random()?,
    );
    write_private(&settings, &settings_text).map_err(|error| told(&settings, error))?;
    Ok(format!(
        r#"Wardcast has new secrets in {dir}. This is shown once:

  Log in as {user}, password {password}:
    curl {base_url}/auth/login -H 'Content-Type: application/json' -d '{{"username":{user_json},"password":"{password}"}}'

  Publish to the channel "news":
    curl {base_url}/api/publish -H 'X-API-Key: {api_key}' -d '{{"channel":"news","data":{{"hello":"world"}}}}'
"#,
        dir = dir.display(),
        user_json = serde_json::Value::from(user),
    ))
}

/// TOML's basic strings are JSON's, for what names and paths hold.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
