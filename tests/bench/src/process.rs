//! Running servers, and what `/proc` says of processes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client;
use crate::setup::{Program, READERS, Setup, login, reader};
use crate::table::{Rest, median};

/// `USER_HZ`: what Linux counts CPU time in, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

pub struct Server {
    pub name: &'static str,
    pub address: SocketAddr,
    pub has_accounts: bool,
    pub logs_requests: bool,
    /// One for each reader.
    pub tokens: Vec<String>,
    pub pid: u32,
    pub start_ms: f64,
    /// For the files that wrk reads.
    pub work: PathBuf,
    child: Child,
}

impl Server {
    /// With the database behind this URL; returns once the server says that it listens.
    pub fn start(setup: &Setup, program: &Program, database_url: &str) -> Server {
        let log = setup.work.join(format!("{}.log", program.name));
        let mut command = Command::new(&program.path);
        command.env_clear().envs(program.variables.iter().cloned()).env("DATABASE_URL", database_url);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log).expect("a log"));
        let began = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.path.display()));
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let start_ms = began.elapsed().as_secs_f64() * 1000.0;
        let address = line.trim().strip_prefix("listening on http://").and_then(|text| text.parse().ok());
        let said = || panic!("{} did not start: {}", program.name, fs::read_to_string(&log).unwrap_or_default());
        let mut server = Server {
            name: program.name,
            address: address.unwrap_or_else(said),
            has_accounts: program.has_accounts,
            logs_requests: program.logs_requests,
            tokens: Vec::new(),
            pid: child.id(),
            start_ms,
            work: setup.work.clone(),
            child,
        };
        if server.has_accounts && !setup.workloads.is_empty() {
            server.tokens = (0..READERS).map(|number| login(server.address, &reader(number))).collect();
        }
        server
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Begins a new peak.
    pub fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.pid), "5").expect("clear_refs");
    }

    /// `VmHWM` (the peak) or `VmRSS` (now) in MiB.
    pub fn memory(&self, field: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("the server runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("the field");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU seconds of one process.
pub fn cpu(pid: u32) -> f64 {
    stat(pid).map_or(0.0, |stat| (stat[UTIME] + stat[UTIME + 1]) / TICKS_PER_SECOND)
}

/// CPU seconds of PostgreSQL: the postmaster, its living children, and those that ended.
pub fn database_cpu(postmaster: u32) -> f64 {
    let ended = stat(postmaster).expect("PostgreSQL runs")[UTIME..UTIME + 4].iter().sum::<f64>() / TICKS_PER_SECOND;
    let pids = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children = pids.filter(|pid| stat(*pid).is_some_and(|stat| stat[PARENT] == f64::from(postmaster)));
    ended + children.map(cpu).sum::<f64>()
}

/// KiB that one database connection of the bench's servers holds for itself; the median of them.
pub fn private_memory(setup: &Setup) -> f64 {
    let backends = "select pid from pg_stat_activity where usename = $1";
    let rows = setup.admin().query(backends, &[&setup.name()]).expect("the backends");
    let private = |row: &postgres::Row| {
        let path = format!("/proc/{}/smaps_rollup", row.get::<_, i32>(0));
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with("Private_"));
        let numbers = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        numbers.sum()
    };
    median(rows.iter().map(private).collect())
}

/// proc(5): fields behind the name, the state being number 0.
const PARENT: usize = 1;
const UTIME: usize = 11;

fn stat(pid: u32) -> Option<Vec<f64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(|field| field.trim().parse().unwrap_or(0.0)).collect())
}

/// Start, and memory at rest.
pub fn at_rest(setup: &Setup, program: &Program) -> Rest {
    let measure = |_| {
        // Without the log-in that a token would cost.
        let quiet = Program {
            has_accounts: false,
            variables: program.variables.clone(),
            path: program.path.clone(),
            ..*program
        };
        let server = Server::start(setup, &quiet, &setup.database_url);
        std::thread::sleep(Duration::from_millis(200));
        let idle = server.memory("VmRSS");
        let request = client::request("GET", "/healthz", "", "");
        let ask = |_| {
            let mut stream = client::connect(server.address);
            assert_eq!(client::exchange(&mut stream, &request).0, 200);
            stream
        };
        let connections: Vec<TcpStream> = (0..512).map(ask).collect();
        let connected = server.memory("VmRSS");
        drop(connections);
        (server.start_ms, idle, connected)
    };
    let measured: Vec<_> = (0..3).map(measure).collect();
    let middle = |of: fn(&(f64, f64, f64)) -> f64| median(measured.iter().map(of).collect());
    Rest { start_ms: middle(|m| m.0), idle_mib: middle(|m| m.1), connected_mib: middle(|m| m.2) }
}
