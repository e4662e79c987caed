//! rouille's own server, for comparison: the same answer as `GET /healthz`. The argument is the address.

fn main() {
    let address = std::env::args().nth(1).expect("an address");
    let server = rouille::Server::new(address, |_| rouille::Response::json(&serde_json::json!({"status": "ok"})));
    let server = server.expect("a free port");
    println!("listening on http://{}", server.server_addr());
    server.run();
}
