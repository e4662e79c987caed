//! Debian's nginx in front of servers, with the block from the manual.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use uuid::Uuid;

use crate::support::await_that;

/// What stands in the n-th block of this kind in the manual's chapter on proxies.
#[track_caller]
pub fn manual_block(kind: &str, number: usize) -> String {
    let chapter = include_str!("../../src/manual/proxies.md");
    let block = chapter.split(&format!("```{kind}\n")).nth(number + 1).and_then(|rest| rest.split("```").next());
    block.unwrap_or_else(|| panic!("block {number} of kind {kind}")).to_owned()
}

/// The block as it stands in the manual, but for ports, the certificate, the instances, and as many idle connections as
/// the test needs.
pub struct Nginx {
    pub address: SocketAddr,
    directory: PathBuf,
    child: Child,
}

impl Nginx {
    pub fn start(servers: &[SocketAddr]) -> Self {
        let directory = std::env::temp_dir().join(format!("lk{}", Uuid::now_v7().simple()));
        fs::create_dir(&directory).unwrap();
        let [address, tls, plain] = free_ports();
        let files = certificate(&directory);
        let instances: String = servers.iter().map(|server| format!("server {server} max_fails=0;\n")).collect();
        let mut block = manual_block("nginx", 0);
        for (written, used) in [
            ("server 127.0.0.1:8080 max_fails=0;\n", instances.as_str()),
            ("keepalive 64;", "keepalive 512;"),
            ("listen 443 ssl http2;", &format!("listen {tls} ssl http2; listen {address};")),
            ("/etc/ssl/tasks.example.com/fullchain.pem", &files[0]),
            ("/etc/ssl/tasks.example.com/key.pem", &files[1]),
            ("listen 80;", &format!("listen {plain};")),
        ] {
            assert_eq!(block.matches(written).count(), 1, "{written:?} in the manual's block");
            block = block.replace(written, used);
        }
        let place = directory.display();
        let settings = format!(
            "daemon off;\npid {place}/pid;\nerror_log {place}/error.log;\nworker_rlimit_nofile 4096;\n\
             events {{ worker_connections 2048; }}\nhttp {{\naccess_log off;\n\
             client_body_temp_path {place}/a;\nproxy_temp_path {place}/b;\nfastcgi_temp_path {place}/c;\n\
             uwsgi_temp_path {place}/d;\nscgi_temp_path {place}/e;\n{block}}}\n"
        );
        fs::write(directory.join("nginx.conf"), settings).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&directory).arg("-c").arg(directory.join("nginx.conf"));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("nginx is there: run make test-faults");
        let nginx = Self { address, directory, child };
        await_that("nginx listens", || TcpStream::connect(address).is_ok());
        nginx
    }

    pub fn errors(&self) -> String {
        fs::read_to_string(self.directory.join("error.log")).unwrap_or_default()
    }

    /// Status and whole text of the answer to a request from this address of the loopback net.
    pub fn ask(&self, from: Ipv4Addr, request: &Request<'_>) -> io::Result<(u16, String)> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.connect(&self.address.into())?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut stream = TcpStream::from(socket);
        let Request { method, path, fields, body } = request;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: tasks.example.com\r\n{fields}Content-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.get(9..12).and_then(|status| status.parse().ok());
        Ok((status.ok_or(io::ErrorKind::UnexpectedEof)?, answer))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What is sent through nginx. Each of `fields` ends in CR and LF.
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub fields: &'a str,
    pub body: &'a str,
}

/// Held together, so that they differ.
fn free_ports() -> [SocketAddr; 3] {
    let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

/// A certificate that nobody verifies, and its key.
fn certificate(directory: &Path) -> [String; 2] {
    let files = ["fullchain.pem", "key.pem"].map(|name| directory.join(name).display().to_string());
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    command.args(["-subj", "/CN=tasks.example.com", "-out", &files[0], "-keyout", &files[1]]);
    assert!(command.output().expect("openssl is there: run make test-faults").status.success());
    files
}
