//! `make install`, the systemd unit, and what the program needs on a machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::geteuid;
use uuid::Uuid;

use crate::peers::{ADA_PASSWORD_ESCAPED, Postgres};
use crate::support::{Database, Server, environment};

const UNIT: &str = include_str!("../../src/manual/latchkey.service");
const ENV: &str = include_str!("../../src/manual/latchkey.env");

/// A directory that goes with the value.
struct Directory(PathBuf);

impl Directory {
    fn create() -> Self {
        let path = std::env::temp_dir().join(format!("lk{}", Uuid::now_v7().simple()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn must(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

fn setting(name: &str) -> usize {
    let line = UNIT.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).expect(name);
    line.parse().expect(name)
}

#[test]
fn make_install_puts_the_stripped_program_the_unit_and_the_example_in_place() {
    let root = Directory::create();
    must(
        Command::new("make")
            .args(["install", "PREFIX=/opt/latchkey"])
            .arg(format!("DESTDIR={}", root.0.display()))
            .arg(format!("BINARY={}", env!("CARGO_BIN_EXE_latchkey")))
            .current_dir(env!("CARGO_MANIFEST_DIR")),
    );
    let prefix = root.0.join("opt/latchkey");
    let installed = prefix.join("bin/latchkey");
    let version = must(Command::new(&installed).arg("--version"));
    assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    assert!(size(&installed) < size(Path::new(env!("CARGO_BIN_EXE_latchkey"))), "it is not stripped");
    let unit = fs::read_to_string(prefix.join("lib/systemd/system/latchkey.service")).unwrap();
    assert!(unit.contains("ExecStart=/opt/latchkey/bin/latchkey --env-file %d/env serve"), "{unit}");
    assert_eq!(fs::read_to_string(prefix.join("share/latchkey/latchkey.env")).unwrap(), ENV);
}

#[test]
fn the_unit_is_valid_and_gives_up_on_a_mistake_in_the_configuration_alone() {
    for line in [
        "DynamicUser=yes",
        "LoadCredential=env:/etc/latchkey.env",
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        "MemoryDenyWriteExecute=yes",
        "SystemCallFilter=@system-service",
        "SystemCallErrorNumber=EPERM",
        "CapabilityBoundingSet=",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "Restart=on-failure",
        "RestartPreventExitStatus=2",
        "StartLimitIntervalSec=0",
    ] {
        assert!(UNIT.lines().any(|there| there == line), "{line}");
    }
    let (max_connections, pool_size) = (512, 10);
    assert_eq!(setting("TasksMax"), max_connections + 4 * pool_size + 64);
    assert!(setting("LimitNOFILE") > 2 * max_connections);
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("systemd-analyze is not here: the unit was not verified");
        return;
    }
    let directory = Directory::create();
    let unit = directory.0.join("latchkey.service");
    let verify = |text: &str| {
        fs::write(&unit, text.replace("/usr/local/bin/latchkey", env!("CARGO_BIN_EXE_latchkey"))).unwrap();
        let output = Command::new("systemd-analyze").arg("verify").arg(&unit).output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success() && !complaints.contains("latchkey.service"), complaints)
    };
    let (is_valid, complaints) = verify(UNIT);
    assert!(is_valid, "{complaints}");
    let (is_valid, _) = verify(&UNIT.replace("DynamicUser=yes", "DynamicUsers=yes"));
    assert!(!is_valid, "systemd-analyze does not look");
}

#[test]
fn the_example_of_settings_is_read_and_asks_for_a_secret() {
    let directory = Directory::create();
    let file = directory.0.join("latchkey.env");
    fs::write(&file, ENV).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_latchkey"))
        .args(["--env-file", file.to_str().unwrap(), "serve"])
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "latchkey: JWT_SECRET must be set\n");
}

/// The program and the libraries of libc and GCC that it is linked with, in an empty root.
fn empty_root() -> Directory {
    let root = Directory::create();
    let program = env!("CARGO_BIN_EXE_latchkey");
    fs::copy(program, root.0.join("latchkey")).unwrap();
    let linked = must(Command::new("ldd").arg(program));
    let linked = String::from_utf8(linked.stdout).unwrap();
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        let name = Path::new(library).file_name().unwrap().to_str().unwrap();
        let is_of_libc = ["libc.so.6", "libm.so.6", "libgcc_s.so.1"].contains(&name) || name.starts_with("ld-linux");
        assert!(is_of_libc, "the program needs {library}");
        let copy = root.0.join(library.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(library, copy).unwrap();
    }
    root
}

#[test]
fn the_program_serves_in_an_empty_root_with_nothing_but_libc() {
    let root = empty_root();
    if !geteuid().is_root() {
        println!("only root may change the root: the program was not started there");
        return;
    }
    let postgres = Postgres::shared();
    let url = format!("postgres://ada:{ADA_PASSWORD_ESCAPED}@127.0.0.1:{}/ada", postgres.port);
    let path = root.0.to_str().unwrap();
    let server = Server::by(
        Command::new("/usr/sbin/chroot").args([path, "/latchkey", "serve"]).env_clear().envs(environment(&url)),
        &Database::create(),
    );
    server.user("empty");
}
