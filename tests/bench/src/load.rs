//! The load: wrk on a server, or clients that log in; pgbench and bcrypt as the limits of the machine.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::flood::{Percentiles, logins};
use crate::process::{Server, cpu, database_cpu};
use crate::setup::{PASSWORD, Setup, Workload};
use crate::table::Figures;
use crate::trips::Script;

const COST: u32 = 12;
/// As many as the servers' pools have.
const PGBENCH_CLIENTS: &str = "10";

/// One measurement of one server; a warm-up takes a second.
pub fn server(server: &Server, workload: &Workload, postmaster: u32, is_warm_up: bool) -> Figures {
    let seconds = if is_warm_up { 1 } else { workload.seconds };
    server.forget_peak();
    let before = (cpu(server.pid), database_cpu(postmaster));
    let (rate, count, (p50, p99)) = if workload.is_login {
        let logins = logins(server, workload.connections, Duration::from_secs(seconds));
        (logins.per_second, logins.completed as f64, logins.times)
    } else {
        wrk(server, workload, seconds)
    };
    let after = (cpu(server.pid), database_cpu(postmaster));
    Figures {
        rate,
        p50_ms: Some(p50),
        p99_ms: Some(p99),
        server_us: Some((after.0 - before.0) / count * 1e6),
        database_us: Some((after.1 - before.1) / count * 1e6),
        peak_mib: Some(server.memory("VmHWM")),
    }
}

/// Requests per second, how many, p50 and p99. No request may fail.
fn wrk(server: &Server, workload: &Workload, seconds: u64) -> (f64, f64, Percentiles) {
    let script = server.work.join("wrk.lua");
    fs::write(&script, lua(server, workload)).expect("a file");
    let mut command = Command::new("wrk");
    command.arg("-t2").arg(format!("-c{}", workload.connections)).arg(format!("-d{seconds}s"));
    command.arg("--timeout").arg("10s").arg("-s").arg(&script);
    let output = run(command.arg(format!("http://{}", server.address)));
    let line = output.lines().find_map(|line| line.strip_prefix("measured ")).expect("wrk's result");
    let numbers: Vec<f64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
    let [count, micros, p50, p99, failed] = numbers[..] else { panic!("five numbers: {line}") };
    assert!(failed == 0.0, "{}, {}: {failed} of {count} requests failed\n{output}", server.name, workload.name);
    (count / micros * 1e6, count, (p50 / 1000.0, p99 / 1000.0))
}

/// The requests of all readers in turn, put together once for each thread.
fn lua(server: &Server, workload: &Workload) -> String {
    let Workload { method, body, .. } = workload;
    let request = |(path, token): (&String, Option<&String>)| {
        let bearer = token.map_or(String::new(), |token| format!("['Authorization'] = 'Bearer {token}', "));
        let content = if body.is_empty() { "" } else { "['Content-Type'] = 'application/json'" };
        format!("wrk.format('{method}', '{path}', {{['Host'] = '{}', {bearer}{content}}}, '{body}'),\n", server.address)
    };
    let tokens = (0..workload.paths.len()).map(|number| server.tokens.get(number).filter(|_| workload.is_stored));
    let requests: String = workload.paths.iter().zip(tokens).map(request).collect();
    format!(
        "local requests, turn\n\
         init = function() requests, turn = {{ {requests} }}, 0 end\n\
         request = function() turn = turn % #requests + 1 return requests[turn] end\n\
         done = function(summary, latency)\n\
         local e = summary.errors\n\
         local failed = e.connect + e.read + e.write + e.status + e.timeout\n\
         io.write(string.format('measured %d %d %d %d %d\\n', summary.requests, summary.duration,\n\
         latency:percentile(50), latency:percentile(99), failed))\n\
         end\n"
    )
}

/// The same statement, prepared, by PostgreSQL's own load generator.
pub fn pgbench(setup: &Setup, script: &Script, is_warm_up: bool) -> Figures {
    let file = setup.work.join("pgbench.sql");
    fs::write(&file, &script.text).expect("a file");
    let bin = PathBuf::from(std::env::var_os("LATCHKEY_TEST_POSTGRES_BIN").unwrap_or_default());
    let before = database_cpu(setup.postmaster);
    let beside = bin.join("pgbench");
    let mut command = Command::new(if beside.exists() { beside } else { "pgbench".into() });
    command.args(["-n", "-M", "prepared", "-c", PGBENCH_CLIENTS, "-j", "2"]);
    script.variables.iter().for_each(|variable| {
        command.arg("-D").arg(variable);
    });
    command.args(["-T", if is_warm_up { "1" } else { "2" }]).arg("-f").arg(file).arg(&setup.database_url);
    let output = run(&mut command);
    let after = database_cpu(setup.postmaster);
    let number = |prefix: &str| {
        let text = output.lines().find_map(|line| line.strip_prefix(prefix)).expect("pgbench's result");
        text.split([' ', '/']).next().and_then(|text| text.parse::<f64>().ok()).expect("a number")
    };
    Figures {
        rate: number("tps = "),
        database_us: Some((after - before) / number("number of transactions actually processed: ") * 1e6),
        ..Figures::default()
    }
}

/// Hashes per second when every core does nothing else.
pub fn hashes() -> Figures {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let began = Instant::now();
    let work = || {
        let mut count = 0;
        while began.elapsed() < Duration::from_secs(2) {
            bcrypt::hash(PASSWORD, COST).expect("a hash");
            count += 1;
        }
        f64::from(count) / began.elapsed().as_secs_f64()
    };
    let rate = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a hash thread")).sum()
    });
    Figures { rate, ..Figures::default() }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
