//! What is printed: Markdown, as the manual shows it.

use crate::flood::Flood;
use crate::process::Server;
use crate::setup::Workload;
use crate::trips::Trips;

/// One measurement. What was not measured is `None`.
#[derive(Clone, Default)]
pub struct Figures {
    /// Requests per second.
    pub rate: f64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// CPU per request.
    pub server_us: Option<f64>,
    pub database_us: Option<f64>,
    pub peak_mib: Option<f64>,
}

pub struct Row {
    /// Numbers in the lists of workloads and of servers; without a server it is the machine's limit.
    pub workload: usize,
    pub server: Option<usize>,
    pub measured: Vec<Figures>,
}

/// What a process costs that does nothing.
pub struct Rest {
    pub start_ms: f64,
    pub idle_mib: f64,
    pub connected_mib: f64,
}

/// Every workload on every server that has it, and its limit. The request log is measured where it weighs most.
pub fn rows(workloads: &[Workload], servers: &[Server]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (number, workload) in workloads.iter().enumerate() {
        let has = |server: &Server| {
            (server.has_accounts || !workload.is_stored) && (!server.logs_requests || workload.name == "get")
        };
        let measured = servers.iter().enumerate().filter(|(_, server)| has(server));
        let servers = measured.map(|(number, _)| Some(number)).chain(workload.is_stored.then_some(None));
        rows.extend(servers.map(|server| Row { workload: number, server, measured: Vec::new() }));
    }
    rows
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Row {
    fn median(&self, of: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        let values: Option<Vec<f64>> = self.measured.iter().map(of).collect();
        values.map(median)
    }

    fn rate(&self) -> f64 {
        self.median(|figures| Some(figures.rate)).unwrap_or_default()
    }
}

pub fn print(rows: &[Row], workloads: &[Workload], servers: &[Server], trips: &Trips) {
    println!(
        "| request | server | requests/s | latchkey ÷ it | p50 ms | p99 ms | server CPU µs | database CPU µs | peak MiB | round trips |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|");
    for row in rows {
        let workload = &workloads[row.workload];
        let name = match row.server {
            Some(number) => servers[number].name,
            None if workload.is_login => "limit: hashes alone",
            None => "limit: pgbench -M prepared",
        };
        let latchkey = rows.iter().find(|other| other.workload == row.workload).map_or(0.0, Row::rate);
        let trips = trips.counts.get(&(name, workload.name)).copied();
        println!(
            "| {} | {name} | {} | {} | {} | {} | {} | {} | {} | {} |",
            workload.name,
            number(Some(row.rate())),
            format_args!("{:.2}", latchkey / row.rate()),
            number(row.median(|figures| figures.p50_ms)),
            number(row.median(|figures| figures.p99_ms)),
            number(row.median(|figures| figures.server_us)),
            number(row.median(|figures| figures.database_us)),
            number(row.median(|figures| figures.peak_mib)),
            trips.map_or("–".into(), |trips| format!("{trips:.1}")),
        );
    }
}

pub fn print_flood<'a>(floods: impl Iterator<Item = (&'a str, Flood)>) {
    println!(
        "\n| reads beside 16 clients that log in | p50 ms alone | beside | p99 ms alone | beside | p99 ratio | logins/s | logins answered 503 |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    for (name, flood) in floods {
        let ((a50, a99), (b50, b99)) = (flood.alone, flood.beside);
        let [a50, b50, a99, b99] = [a50, b50, a99, b99].map(|value| number(Some(value)));
        let ratio = flood.beside.1 / flood.alone.1;
        println!(
            "| {name} | {a50} | {b50} | {a99} | {b99} | {ratio:.2} | {:.1} | {} |",
            flood.logins_per_second, flood.refused
        );
    }
}

pub fn print_processes<'a>(processes: impl Iterator<Item = (&'a str, Rest)>) {
    println!("\n| process at rest | start ms | idle MiB | MiB with 512 idle connections |");
    println!("|---|--:|--:|--:|");
    for (name, rest) in processes {
        let values = [rest.start_ms, rest.idle_mib, rest.connected_mib].map(|value| number(Some(value)));
        println!("| {name} | {} |", values.join(" | "));
    }
}

pub fn print_hostile(answers: Vec<(&str, String, bool)>) {
    println!("\n| `Content-Length: 70368744177664` | answer | afterwards |");
    println!("|---|---|---|");
    for (name, answer, is_running) in answers {
        println!("| {name} | {answer} | {} |", if is_running { "serves on" } else { "the process is dead" });
    }
}

/// Three significant digits at least.
fn number(value: Option<f64>) -> String {
    match value {
        None => "–".into(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}
