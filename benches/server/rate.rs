//! Requests per second of `GET /health` and gRPC `Health`: by wrk and h2load where they are installed, else by a
//! client of our own, which is said.

use std::{
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::http::uri::PathAndQuery;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    Result,
    peer::Peer,
    process::{Home, Process},
    table::{Numbers, Row, Table, short},
};

pub(crate) const SECONDS: u64 = 3;
const ROUNDS: usize = 3;
const OURS: &str = "/opencode.v1.OpenCodeService/Health";
const STANDARD: &str = "/grpc.health.v1.Health/Check";

/// What one run of a load generator found.
pub(crate) struct Load {
    pub(crate) per_second: f64,
    latency: String,
    tool: &'static str,
}

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let home = Home::new()?;
    let (server, address) = home.server(&[])?;
    let peer = Peer::start()?;
    let h1 = compare(&server, || http(address), || http(peer.http))?;
    table.add(h1.row("GET /health, HTTP/1.1, 64 connections", "bare axum"));
    let h2 = compare(&server, || grpc(address, OURS), || grpc(peer.grpc, STANDARD))?;
    table.add(h2.row("gRPC Health, 8 connections x 16 calls", "bare tonic (the standard health service)"));
    let standard = compare(&server, || grpc(address, STANDARD), || grpc(peer.grpc, STANDARD))?;
    table.add(standard.row("gRPC grpc.health.v1.Health/Check, 8 x 16", "bare tonic (the same service)"));
    Ok(())
}

struct Compared {
    ours: Numbers,
    peers: Numbers,
    latency: String,
    tool: &'static str,
    /// CPU time of our process per request, in microseconds.
    cpu: f64,
}

/// Runs both in turns.
fn compare(server: &Process, ours: impl Fn() -> Result<Load>, peers: impl Fn() -> Result<Load>) -> Result<Compared> {
    let mut found =
        Compared { ours: Numbers::default(), peers: Numbers::default(), latency: String::new(), tool: "", cpu: 0.0 };
    for _ in 0..ROUNDS {
        let before = server.cpu()?;
        let load = ours()?;
        found.cpu = (server.cpu()? - before).as_secs_f64() * 1e6 / (load.per_second * SECONDS as f64);
        found.ours.push(load.per_second);
        (found.latency, found.tool) = (load.latency, load.tool);
        found.peers.push(peers()?.per_second);
    }
    Ok(found)
}

impl Compared {
    fn row(&self, what: &str, peer: &str) -> Row {
        let ratio = self.ours.median() / self.peers.median();
        Row::new(
            format!("{what}, {ROUNDS} x {SECONDS} s by {} (min / median / max, per second)", self.tool),
            "",
            format!("{}; {}; {} us of CPU each", self.ours.spread(), self.latency, short(self.cpu)),
            format!("{peer} {}; ratio {ratio:.2}", self.peers.spread()),
        )
    }
}

fn http(address: SocketAddr) -> Result<Load> {
    http_get(address, "/health", None)
}

/// GET of a path over and over, with this header.
pub(crate) fn http_get(address: SocketAddr, path: &'static str, header: Option<&str>) -> Result<Load> {
    let url = format!("http://{address}{path}");
    let duration = format!("-d{SECONDS}s");
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c64", &duration, "--latency"]).args(header.iter().flat_map(|header| ["-H", header]));
    let Ok(output) = wrk.arg(&url).output() else {
        let line = header.map(|header| format!("{header}\r\n")).unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{line}\r\n");
        return own(|count| requests(address, request.clone(), count), 64);
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(text.into());
    }
    let after = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let rate = after("Requests/sec:").and_then(|rate| rate.parse().ok()).ok_or_else(|| text.clone())?;
    let latency = format!("p50 {}, p99 {}", after("50%").unwrap_or("?"), after("99%").unwrap_or("?"));
    Ok(Load { per_second: rate, latency, tool: "wrk" })
}

fn grpc(address: SocketAddr, path: &'static str) -> Result<Load> {
    // That the call is well is asked once by a real client: h2load sees only HTTP's status.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { call(&mut connect(address).await?, path).await })?;
    let folder = tempfile::tempdir()?;
    let empty = folder.path().join("empty");
    std::fs::write(&empty, [0; 5])?;
    let mut command = Command::new("h2load");
    command.args([
        "-c8",
        "-m16",
        "-t1",
        "-D",
        &SECONDS.to_string(),
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
    ]);
    let Ok(output) = command.arg("-d").arg(empty).arg(format!("http://{address}{path}")).output() else {
        let calls = move |count: Arc<AtomicU64>| async move {
            let client = connect(address).await?;
            let mut calls: JoinSet<Result<()>> = JoinSet::new();
            for _ in 0..16 {
                let (mut client, count) = (client.clone(), Arc::clone(&count));
                calls.spawn(async move {
                    loop {
                        call(&mut client, path).await?;
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            while let Some(ended) = calls.join_next().await {
                ended??;
            }
            Ok(())
        };
        return own(calls, 8);
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate =
        text.lines().find_map(|line| line.strip_prefix("finished in ")?.split(", ").nth(1)?.strip_suffix(" req/s"));
    let rate = rate.and_then(|rate| rate.parse().ok()).ok_or_else(|| text.clone())?;
    if !text.contains(" 0 failed") {
        return Err(text.into());
    }
    let times = text.lines().find_map(|line| line.strip_prefix("time for request:"));
    let mean = times.and_then(|line| line.split_whitespace().nth(2)).unwrap_or("?");
    Ok(Load { per_second: rate, latency: format!("mean {mean}"), tool: "h2load" })
}

/// A load generator for machines without one.
fn own<F, Answer>(work: F, connections: usize) -> Result<Load>
where
    F: Fn(Arc<AtomicU64>) -> Answer,
    Answer: Future<Output = Result<()>> + Send + 'static,
{
    let count = Arc::new(AtomicU64::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let began = Instant::now();
    runtime.block_on(async {
        let mut running = JoinSet::new();
        for _ in 0..connections {
            running.spawn(work(Arc::clone(&count)));
        }
        match tokio::time::timeout(Duration::from_secs(SECONDS), running.join_next()).await {
            Ok(Some(ended)) => ended?,
            Ok(None) | Err(_) => Ok(()),
        }
    })?;
    let per_second = count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    Ok(Load { per_second, latency: "latency not taken".into(), tool: "an own client" })
}

async fn requests(address: SocketAddr, request: String, count: Arc<AtomicU64>) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        stream.write_all(request.as_bytes()).await?;
        // Head and body come in one piece: the server writes them at once.
        let read = stream.read(&mut buffer).await?;
        if !buffer[..read].starts_with(b"HTTP/1.1 200") {
            return Err("no 200".into());
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
}

type Client = tonic::client::Grpc<tonic::transport::Channel>;

/// A gRPC client of any service.
pub(crate) async fn connect(address: SocketAddr) -> Result<Client> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?;
    Ok(Client::new(endpoint.connect().await?))
}

async fn call(client: &mut Client, path: &'static str) -> Result<()> {
    client.ready().await?;
    // The answer's fields are skipped.
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    client.unary(tonic::Request::new(()), PathAndQuery::from_static(path), codec).await?;
    Ok(())
}
