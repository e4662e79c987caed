//! Paced reads alone, then the same reads beside clients that log in without a pause.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{connect, exchange, request};
use crate::process::Server;
use crate::setup::{FLOODERS, credentials};
use crate::table;

const READERS: usize = 4;
const READ_EVERY: Duration = Duration::from_millis(10);
/// Until the flood is at its height.
const BEFORE: Duration = Duration::from_secs(1);
const TIME: Duration = Duration::from_secs(2);

/// p50 and p99 in milliseconds.
pub type Percentiles = (f64, f64);

pub struct Flood {
    pub alone: Percentiles,
    pub beside: Percentiles,
    pub logins_per_second: f64,
    /// Logins that were told to come back.
    pub refused: f64,
}

impl Flood {
    /// The median of each figure.
    pub fn median<'a>(floods: impl Iterator<Item = &'a Flood> + Clone) -> Flood {
        let of = |figure: fn(&Flood) -> f64| table::median(floods.clone().map(figure).collect());
        Flood {
            alone: (of(|flood| flood.alone.0), of(|flood| flood.alone.1)),
            beside: (of(|flood| flood.beside.0), of(|flood| flood.beside.1)),
            logins_per_second: of(|flood| flood.logins_per_second),
            refused: of(|flood| flood.refused),
        }
    }
}

pub fn measure(server: &Server) -> Flood {
    let read = request("GET", "/api/me/tasks", &server.tokens[0], "");
    reads(server.address, &read, Duration::from_millis(500));
    let alone = reads(server.address, &read, TIME);
    let (beside, logins) = thread::scope(|scope| {
        let logins = scope.spawn(|| logins(server, FLOODERS, TIME + BEFORE));
        thread::sleep(BEFORE);
        (reads(server.address, &read, TIME), logins.join().expect("the flood"))
    });
    Flood { alone, beside, logins_per_second: logins.per_second, refused: logins.refused as f64 }
}

/// Logins without a pause, but for a moment after each 503.
pub struct Logins {
    pub per_second: f64,
    pub completed: usize,
    pub refused: usize,
    /// Of those that completed.
    pub times: Percentiles,
}

pub fn logins(server: &Server, clients: usize, time: Duration) -> Logins {
    let began = Instant::now();
    let log_in = |number: usize| {
        let (mut stream, mut times, mut refused) = (connect(server.address), Vec::new(), 0);
        let login = request("POST", "/auth/login", "", &credentials(&format!("flooder{number}")));
        while began.elapsed() < time {
            let sent = Instant::now();
            match exchange(&mut stream, &login).0 {
                200 => times.push(sent.elapsed().as_secs_f64() * 1000.0),
                503 => {
                    refused += 1;
                    thread::sleep(Duration::from_millis(50));
                }
                status => panic!("{}: login answered {status}", server.name),
            };
        }
        (times, refused)
    };
    let outcomes: Vec<(Vec<f64>, usize)> = thread::scope(|scope| {
        let log_in = &log_in;
        let clients: Vec<_> = (0..clients).map(|number| scope.spawn(move || log_in(number))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    let seconds = began.elapsed().as_secs_f64();
    let refused = outcomes.iter().map(|(_, refused)| refused).sum();
    let times: Vec<f64> = outcomes.into_iter().flat_map(|(times, _)| times).collect();
    Logins { per_second: times.len() as f64 / seconds, completed: times.len(), refused, times: percentiles(times) }
}

fn percentiles(mut times: Vec<f64>) -> Percentiles {
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
    (at(times.len() / 2), at(times.len() * 99 / 100))
}

fn reads(address: SocketAddr, read: &[u8], time: Duration) -> Percentiles {
    let began = Instant::now();
    let reader = || {
        let (mut stream, mut times) = (connect(address), Vec::new());
        while began.elapsed() < time {
            let sent = Instant::now();
            let (status, answer) = exchange(&mut stream, read);
            assert_eq!(status, 200, "{answer}");
            times.push(sent.elapsed().as_secs_f64() * 1000.0);
            thread::sleep(READ_EVERY.saturating_sub(sent.elapsed()));
        }
        times
    };
    percentiles(thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(reader)).collect();
        readers.into_iter().flat_map(|reader| reader.join().expect("a reader")).collect()
    }))
}
