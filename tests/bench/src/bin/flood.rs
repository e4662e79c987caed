//! Reads beside a login flood:  flood HOST:PORT READER FLOODER PASSWORD SECONDS
//!
//! Paced reads (`GET /api/me/tasks`) alone, then the same reads beside 16 clients that log in without a pause; then what
//! the cores can hash when they do nothing else. Prints p50 and p99 of the reads, logins per second, and the two ratios.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const READERS: usize = 4;
const READ_EVERY: Duration = Duration::from_millis(20);
const FLOODERS: usize = 16;
const COST: u32 = 12;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, reader, flooder, password, seconds] = arguments.as_slice() else {
        panic!("HOST:PORT READER FLOODER PASSWORD SECONDS")
    };
    let time = Duration::from_secs(seconds.parse().expect("seconds"));
    // Two accounts: the fifty-first session of one would end the one that reads.
    let login_of = |email: &str| {
        let account = format!("{{\"email\":\"{email}\",\"password\":\"{password}\"}}");
        request("POST", "/auth/login", "Content-Type: application/json\r\n", &account)
    };
    let login = login_of(flooder);
    let (status, answer) = exchange(&mut connect(address), &login_of(reader));
    assert_eq!(status, 200, "{answer}");
    let token = answer.split("\"access_token\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a token");
    let read = request("GET", "/api/me/tasks", &format!("Authorization: Bearer {token}\r\n"), "");

    measure_reads(address, &read, Duration::from_secs(1));
    let alone = measure_reads(address, &read, time);
    let (beside, rate, refused) = flood(address, &login, &read, time);
    let possible = hash_rate(time);
    println!("reads alone:        p50 {:.3} ms  p99 {:.3} ms", alone.0, alone.1);
    println!("reads beside flood: p50 {:.3} ms  p99 {:.3} ms", beside.0, beside.1);
    println!("p99 ratio:          {:.2}", beside.1 / alone.1);
    println!("logins completed:   {rate:.2}/s of {possible:.2} hashes/s on all cores; {refused} answered 503");
    println!("login ratio:        {:.2}", rate / possible);
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    stream
}

fn request(method: &str, path: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: bench\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// One request and its answer on a connection that stays open.
fn exchange(stream: &mut TcpStream, request: &[u8]) -> (u16, String) {
    stream.write_all(request).expect("to send");
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = stream.read(&mut buffer).expect("to receive");
        assert!(count > 0, "the server closed the connection");
        answer.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
            return (status, body.to_owned());
        }
    }
}

/// p50 and p99 in milliseconds.
fn measure_reads(address: &str, read: &[u8], time: Duration) -> (f64, f64) {
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let (mut stream, read) = (connect(address), read.to_vec());
            thread::spawn(move || {
                let (began, mut times) = (Instant::now(), Vec::new());
                while began.elapsed() < time {
                    let sent = Instant::now();
                    let (status, answer) = exchange(&mut stream, &read);
                    assert_eq!(status, 200, "{answer}");
                    times.push(sent.elapsed().as_secs_f64() * 1000.0);
                    thread::sleep(READ_EVERY.saturating_sub(sent.elapsed()));
                }
                times
            })
        })
        .collect();
    let mut times: Vec<f64> = readers.into_iter().flat_map(|reader| reader.join().expect("a reader")).collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// The reads beside the flood, logins per second, and how many were told to come back.
fn flood(address: &str, login: &[u8], read: &[u8], time: Duration) -> ((f64, f64), f64, u64) {
    let counts = Arc::new((AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0)));
    let flooders: Vec<_> = (0..FLOODERS)
        .map(|_| {
            let (mut stream, login, counts) = (connect(address), login.to_vec(), counts.clone());
            thread::spawn(move || {
                while !counts.0.load(Ordering::Relaxed) {
                    match exchange(&mut stream, &login).0 {
                        200 => counts.1.fetch_add(1, Ordering::Relaxed),
                        503 => {
                            thread::sleep(Duration::from_millis(50));
                            counts.2.fetch_add(1, Ordering::Relaxed)
                        }
                        status => panic!("login answered {status}"),
                    };
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_secs(1));
    let (began, before) = (Instant::now(), counts.1.load(Ordering::Relaxed));
    let reads = measure_reads(address, read, time);
    let rate = (counts.1.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    counts.0.store(true, Ordering::Relaxed);
    flooders.into_iter().for_each(|flooder| flooder.join().expect("a flooder"));
    (reads, rate, counts.2.load(Ordering::Relaxed))
}

/// Hashes per second when every core does nothing else.
fn hash_rate(time: Duration) -> f64 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let began = Instant::now();
    let threads: Vec<_> = (0..cores)
        .map(|_| {
            thread::spawn(move || {
                let mut count = 0;
                while began.elapsed() < time {
                    bcrypt::hash("correct horse battery staple", COST).expect("a hash");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let count: u32 = threads.into_iter().map(|thread| thread.join().expect("a hash thread")).sum();
    f64::from(count) / began.elapsed().as_secs_f64()
}
