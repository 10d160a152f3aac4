//! What packages are made of: units of systemd, manual pages, and manifests of Kubernetes, checked against what the hub has.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
};

use wardcast::config::{Environment, Sources, load};

use crate::support::{
    http,
    process::{Process, run, wardcast},
    repository, start_hub,
};

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_command_has_a_manual_page_that_names_its_options() {
    let directory = tempfile::tempdir().unwrap();
    let written = run(&mut wardcast(&["man", directory.path().to_str().unwrap()]));
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    let page = |name: &str| fs::read_to_string(directory.path().join(format!("{name}.1"))).expect(name);
    let help = run(&mut wardcast(&["--help"])).stdout;
    let listed = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let commands: Vec<&str> = listed
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() > 10, "{commands:?}");
    let main = page("wardcast");
    for command in commands {
        let escaped = command.replace('-', "\\-");
        assert!(main.contains(&format!("wardcast\\-{escaped}(1)")), "{command} in {main}");
        page(&format!("wardcast-{command}"));
    }
    assert!(page("wardcast-token").contains("\\-\\-ttl"));
    let missing = directory.path().join("none");
    run(&mut wardcast(&["man", missing.to_str().unwrap()])).assert_failed_with(&["none", "directory"]);
}

#[test]
fn systemd_accepts_the_units() {
    let directory = tempfile::tempdir().unwrap();
    for unit in ["wardcast.service", "wardcast.socket"] {
        let text = read(&format!("config/systemd/{unit}"));
        // The programs must exist on this machine.
        let text = text.replace("/usr/bin/wardcast", env!("CARGO_BIN_EXE_wardcast"));
        fs::write(directory.path().join(unit), text).unwrap();
    }
    let verify = |names: &[&str]| {
        let paths = names.iter().map(|name| directory.path().join(name));
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no", "--recursive-errors=no"]).args(paths);
        command.output().map(|output| (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let Ok((is_valid, errors)) = verify(&["wardcast.service", "wardcast.socket"]) else {
        println!("systemd-analyze is not installed");
        return;
    };
    assert!(is_valid && !errors.contains(directory.path().to_str().unwrap()), "{errors}");
    // The check can fail.
    fs::write(directory.path().join("bad.service"), "[Service]\nExecStart=/nonexistent\nNoSuchKey=1\n").unwrap();
    let (is_valid, errors) = verify(&["bad.service"]).unwrap();
    assert!(!is_valid || errors.contains("NoSuchKey"), "{errors}");
}

#[test]
fn commands_in_the_unit_exist() {
    let unit = read("config/systemd/wardcast.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/wardcast ")).unwrap();
    let arguments: Vec<&str> = start.split(' ').chain(["--help"]).collect();
    let help = run(&mut wardcast(&arguments));
    assert_eq!(help.code, Some(0), "{}", help.stderr);
}

#[test]
fn service_manager_is_told_when_the_hub_listens_and_when_it_stops() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let receive = || {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let settings = [
        "--ephemeral",
        "--set",
        "server.bind=127.0.0.1:0",
        "--set",
        "server.drain=1s",
        "--set",
        "server.drain_delay=0s",
    ];
    let hub = Process::start(wardcast(&settings).env("NOTIFY_SOCKET", &path));
    assert_eq!(receive(), "READY=1");
    hub.signal(15);
    assert_eq!(receive(), "STOPPING=1");
    assert_eq!(hub.wait_for_exit().code, Some(0));
}

/// The variables in the manifest, each with its value.
fn manifest_variables(manifest: &str) -> Vec<(String, String)> {
    let variable = |line: &str| {
        let entry = line.trim().strip_prefix("- {name: WARDCAST_")?.strip_suffix('}')?;
        let (name, value) = entry.split_once(", value: ")?;
        Some((format!("WARDCAST_{name}"), value.trim_matches('"').to_owned()))
    };
    manifest.lines().filter_map(variable).collect()
}

#[actix_rt::test]
async fn kubernetes_manifest_has_valid_settings_and_probes_that_the_hub_answers() {
    let manifest = read("config/kubernetes/wardcast.yaml");
    let mut variables = manifest_variables(&manifest);
    assert_eq!(variables.len(), manifest.matches("{name: WARDCAST_").count());
    let value = |name: &str| variables.iter().find(|(key, _)| key == name).unwrap().1.clone();
    for (port, bind) in [("http", "WARDCAST_SERVER__BIND"), ("internal", "WARDCAST_SERVER__INTERNAL_BIND")] {
        let number = value(bind).rsplit(':').next().unwrap().to_owned();
        assert!(manifest.contains(&format!("- {{name: {port}, containerPort: {number}}}")), "{port} {number}");
        assert!(manifest.contains(&format!("targetPort: {port}")), "{port}");
    }
    for secret in ["WARDCAST_AUTH__HMAC_SECRET", "WARDCAST_API__KEY"] {
        assert!(manifest.contains(&format!("  {secret}: \"\"")), "{secret}");
        variables.push((secret.to_owned(), "9b2e7c41d08f5a63e1b4c7d2f9805a36be1d".to_owned()));
    }
    let sources = Sources { environment: Environment::Production, file: None, variables, flags: Vec::new() };
    let config = load(sources).unwrap_or_else(|errors| panic!("{errors}"));
    let grace = manifest.split_once("terminationGracePeriodSeconds: ").unwrap().1.lines().next().unwrap();
    assert!(config.server.drain.as_secs() < grace.parse().unwrap());
    let hub = start_hub().await;
    let probes: Vec<&str> = manifest.lines().filter_map(|line| line.trim().strip_prefix("httpGet: {path: ")).collect();
    assert_eq!(probes.len(), 2);
    for probe in probes {
        let (path, port) = probe.split_once(", port: ").unwrap();
        assert_eq!(port, "http}");
        assert_eq!(http::get(hub.address, path).send().await.status, 200, "{path}");
    }
}

/// The files of an asset's path, which may end in `*` and an extension.
fn files_of(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let Some(end) = name.strip_prefix('*') else { return vec![path.to_owned()] };
    let entries = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|file| file.to_str().unwrap().ends_with(end)).collect()
}

#[test]
fn package_is_made_of_files_that_exist_or_that_its_build_generates() {
    let directory = tempfile::tempdir().unwrap();
    let generated = directory.path().join("package");
    let mut generate = Command::new(repository().join("config/debian/generate"));
    let written = run(generate.arg(env!("CARGO_BIN_EXE_wardcast")).arg(&generated).current_dir(&directory));
    assert_eq!(written.code, Some(0), "{}", written.stderr);

    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let package = &manifest["package"]["metadata"]["deb"];
    let assets = package["assets"].as_array().unwrap().iter().map(|asset| asset[0].as_str().unwrap());
    let (mut installed, mut has_program) = (Vec::new(), false);
    for source in assets.chain(package["changelog"].as_str()) {
        match source.strip_prefix("target/package/") {
            _ if source == "target/release/wardcast" => has_program = true,
            Some(name) => installed.extend(files_of(&generated.join(name))),
            None => installed.extend(files_of(&repository().join(source))),
        }
    }
    // cargo deb writes the file `copyright` from these, and refuses a package without them.
    assert!(package["copyright"].as_str().is_some_and(|text| text.contains("Wardcast")));
    installed.push(repository().join(package["license-file"][0].as_str().unwrap()));
    assert!(!installed.iter().any(|file| file.ends_with("copyright")));
    assert!(has_program && installed.iter().filter(|file| file.extension().unwrap_or_default() == "1").count() > 10);
    let scripts = repository().join(package["maintainer-scripts"].as_str().unwrap());
    installed.extend(["postinst", "postrm"].map(|script| scripts.join(script)));
    let units = repository().join(package["systemd-units"][0]["unit-scripts"].as_str().unwrap());
    installed.extend(["wardcast.service", "wardcast.socket", "wardcast.sysusers"].map(|unit| units.join(unit)));
    for file in installed {
        let length = fs::metadata(&file).map(|metadata| metadata.len());
        assert!(length.as_ref().is_ok_and(|length| *length > 0), "{}: {length:?}", file.display());
        let shell = match file.file_name().unwrap().to_str().unwrap() {
            "postinst" | "postrm" => "sh",
            "wardcast.bash" => "bash",
            _ => continue,
        };
        let checked = run(Command::new(shell).arg("-n").arg(&file));
        assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{}", file.display());
    }
    let changelog = fs::read_to_string(generated.join("changelog")).unwrap();
    assert!(changelog.starts_with(concat!("wardcast (", env!("CARGO_PKG_VERSION"), "-1) unstable;")), "{changelog}");
    assert!(changelog.contains("\n -- Wardcast maintainers <"), "{changelog}");
}
