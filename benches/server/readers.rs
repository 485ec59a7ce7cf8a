//! Readers of `GET /events` in a process of their own, so that they have its file descriptors to themselves. One
//! thread, raw TCP, no client library. Told by lines of standard input, each answered by one line:
//!
//! * `stall N`: N readers of the whole log connect and never read.
//! * `connect N`: N readers connect, and are ready when each has had the beginning of its stream.
//! * `fire N`: N times a title is changed; answers for each the milliseconds from the request to the first and to the
//!   last reader that has the event.

use std::{
    cell::{Cell, RefCell},
    fmt::Write as _,
    io::{BufRead, Write as _},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Notify, task::LocalSet};

use crate::Result;

/// The argument that makes this binary the readers.
pub(crate) const ARGUMENT: &str = "--readers";
/// Connections that are opened at once.
const AT_ONCE: usize = 100;
/// For all readers to have an event, and for all of a batch to connect.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all readers share.
#[derive(Default)]
struct Shared {
    /// What they look for.
    mark: RefCell<Vec<u8>>,
    /// How many have it, and since when.
    found: Cell<usize>,
    first: Cell<Option<Instant>>,
    last: Cell<Option<Instant>>,
    changed: Notify,
}

/// Is the readers until standard input ends.
pub(crate) fn run(address: &str) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let shared = Rc::new(Shared::default());
    let (mut reading, mut stalled) = (0, Vec::new());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (verb, number) = line.split_once(' ').ok_or("no number")?;
        let number: usize = number.parse()?;
        let answer: Result<String> = local.block_on(&runtime, async {
            match verb {
                "stall" => {
                    for _ in 0..number {
                        stalled.push(open(address, "/events?after=0").await?);
                    }
                    Ok("stalled".to_owned())
                }
                "connect" => {
                    connect(address, number, &shared).await?;
                    reading += number;
                    Ok("ready".to_owned())
                }
                "fire" => fire(address, number, reading, &shared).await,
                _ => Err(format!("{verb} is unknown").into()),
            }
        });
        match answer {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("failed: {error}"),
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}

async fn open(address: SocketAddr, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

async fn connect(address: SocketAddr, number: usize, shared: &Rc<Shared>) -> Result<()> {
    // Every stream begins with a block of only `id:`.
    expect(shared, b"id: ");
    let mut opened = 0;
    while opened < number {
        let batch = AT_ONCE.min(number - opened);
        for _ in 0..batch {
            let stream = open(address, "/events").await?;
            tokio::task::spawn_local(read(stream, Rc::clone(shared)));
        }
        opened += batch;
        wait(shared, opened).await?;
    }
    Ok(())
}

/// Reads a stream; tells when what is looked for comes.
async fn read(stream: TcpStream, shared: Rc<Shared>) {
    let mut seen = Vec::new();
    while stream.readable().await.is_ok() {
        let mut buffer = [0; 8192];
        let read = match stream.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => &buffer[..read],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let mark = shared.mark.borrow();
        if seen == *mark || !contains(read, &mark) {
            continue;
        }
        seen.clone_from(&mark);
        let now = Instant::now();
        if shared.found.get() == 0 {
            shared.first.set(Some(now));
        }
        shared.last.set(Some(now));
        shared.found.set(shared.found.get() + 1);
        shared.changed.notify_one();
    }
}

fn contains(text: &[u8], mark: &[u8]) -> bool {
    text.windows(mark.len()).any(|window| window == mark)
}

fn expect(shared: &Shared, mark: &[u8]) {
    *shared.mark.borrow_mut() = mark.to_vec();
    shared.found.set(0);
}

async fn wait(shared: &Shared, number: usize) -> Result<()> {
    let all = async {
        while shared.found.get() < number {
            shared.changed.notified().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, all).await;
    Ok(waited.map_err(|_| format!("{} of {number} readers have it after {PATIENCE:?}", shared.found.get()))?)
}

async fn fire(address: SocketAddr, rounds: usize, readers: usize, shared: &Rc<Shared>) -> Result<String> {
    let mut writer = TcpStream::connect(address).await?;
    writer.set_nodelay(true)?;
    let mut answer = String::new();
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mark = format!("round-{round}-of-{rounds}");
        expect(shared, mark.as_bytes());
        let body = serde_json::json!({ "title": format!("{mark} {}", "x".repeat(100)) }).to_string();
        let request = format!(
            "PATCH /session HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let began = Instant::now();
        writer.write_all(request.as_bytes()).await?;
        wait(shared, readers).await?;
        let since =
            |moment: &Cell<Option<Instant>>| moment.get().map_or(f64::NAN, |at| (at - began).as_secs_f64() * 1e3);
        write!(answer, "{:.3} {:.3} ", since(&shared.first), since(&shared.last))?;
        writer.readable().await?;
        let _ = writer.try_read(&mut [0; 8192]);
    }
    Ok(answer)
}
