//! Many readers of the event stream: how long until the last of them has an event, and what each costs.

use std::{net::SocketAddr, time::Duration};

use crate::{
    Result,
    peer::Peer,
    process::Process,
    readers, replay,
    table::{Numbers, Row, Table, short},
};

const READERS: [usize; 2] = [1_000, 10_000];
const STALLED: usize = 100;
const ROUNDS: usize = 9;
/// For memory to settle.
const PAUSE: Duration = Duration::from_secs(1);
/// Threads that read the file for a burst of readers end when they had nothing to do for 10 s.
const THREADS_END: Duration = Duration::from_secs(12);

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    // A log that no socket can hold: a reader of all of it that never reads is stalled for sure.
    let home = replay::filled()?;
    for count in READERS {
        let peer = Peer::start()?;
        let bare = follow(&peer.process, peer.http, count, 0)?;
        let beside = "bare axum with a broadcast channel";
        for stalled in [0, STALLED] {
            // Readers that take nothing are cut after a minute; these have to stay for the measurement.
            let (server, address) = home.server(&[("OPENCODE_STALL_SECONDS", "600")])?;
            let found = follow(&server, address, count, stalled)?;
            let also = if stalled > 0 { format!(", {stalled} more that never read") } else { String::new() };
            let what = format!("{} SSE readers{also}: PATCH /session to the last one having it", short(count as f64));
            let target = if count == 10_000 { "200" } else { "" };
            table.add(Row::new(
                format!("{what}, {ROUNDS} times (min / median / max, ms)"),
                target,
                format!("{}; {} ms of CPU each time", found.times(), short(found.cpu_ms)),
                format!("{beside}: {}; {} ms of CPU; {}", bare.times(), short(bare.cpu_ms), home.sync()?),
            ));
            if stalled == 0 {
                table.add(Row::new(
                    format!("RSS per reader of {}: connected / after the events (KiB)", short(count as f64)),
                    "24",
                    format!("{} / {}", short(found.connected), short(found.after)),
                    format!("{beside}: {} / {}", short(bare.connected), short(bare.after)),
                ));
            } else {
                table.add(Row::new(
                    format!("RSS per stalled reader, {STALLED} of them with full sockets: at once / 12 s later (KiB)"),
                    "128 more than one that reads",
                    format!("{} / {}", short(found.stalled.0), short(found.stalled.1)),
                    format!(
                        "one that reads: {}; {} KiB of each in the kernel",
                        short(found.after),
                        short(found.unsent)
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// What came of some readers. Memory in KiB for each.
struct Found {
    first: Numbers,
    last: Numbers,
    connected: f64,
    after: f64,
    stalled: (f64, f64),
    unsent: f64,
    cpu_ms: f64,
}

impl Found {
    fn times(&self) -> String {
        format!("{} (the first one: {})", self.last.spread(), short(self.first.median()))
    }
}

fn follow(server: &Process, address: SocketAddr, count: usize, stalled: usize) -> Result<Found> {
    let mut readers = Process::own(&[readers::ARGUMENT, &address.to_string()])?;
    let mut ask = |verb: &str, number: usize| -> Result<String> {
        let answer = readers.ask(&format!("{verb} {number}"))?;
        if answer.starts_with("failed") { Err(answer.into()) } else { Ok(answer) }
    };
    // Whatever is made on first use is made now.
    ask("connect", 1)?;
    ask("fire", 1)?;
    if stalled > 0 {
        replay::read_all(address)?;
    }
    std::thread::sleep(PAUSE);
    let before = server.memory("VmRSS")?;
    let (mut at_once, mut with_stalled, mut unsent) = (before, before, 0.0);
    if stalled > 0 {
        ask("stall", stalled)?;
        unsent = wait_until_full(address, stalled)?;
        at_once = server.memory("VmRSS")?;
        std::thread::sleep(THREADS_END);
        with_stalled = server.memory("VmRSS")?;
    }
    ask("connect", count - 1)?;
    std::thread::sleep(PAUSE);
    let connected = server.memory("VmRSS")?;
    let cpu = server.cpu()?;
    let answer = ask("fire", ROUNDS)?;
    let cpu = server.cpu()? - cpu;
    let times: Vec<f64> = answer.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let (mut first, mut last) = (Numbers::default(), Numbers::default());
    for round in times.chunks_exact(2) {
        first.push(round[0]);
        last.push(round[1]);
    }
    let after = server.memory("VmRSS")?;
    let each = |memory: f64| (memory - with_stalled) / count as f64;
    let for_stalled = |memory: f64| (memory - before) / stalled.max(1) as f64;
    Ok(Found {
        first,
        last,
        connected: each(connected),
        after: each(after),
        stalled: (for_stalled(at_once), for_stalled(with_stalled)),
        unsent: unsent / 1024.0 / stalled.max(1) as f64,
        cpu_ms: cpu.as_secs_f64() * 1e3 / ROUNDS as f64,
    })
}

/// Waits until no socket of the server takes more. Answers the bytes that they hold.
fn wait_until_full(address: SocketAddr, stalled: usize) -> Result<f64> {
    let mut before = 0;
    for _ in 0..30 {
        std::thread::sleep(PAUSE);
        let (sockets, bytes) = unsent(address.port())?;
        if sockets >= stalled && bytes == before {
            return Ok(bytes as f64);
        }
        before = bytes;
    }
    Err("the sockets of readers that never read did not fill".into())
}

/// How many sockets of a port have something that was not taken, and how much together.
fn unsent(port: u16) -> Result<(usize, u64)> {
    let text = std::fs::read_to_string("/proc/net/tcp")?;
    let local = format!(":{port:04X}");
    let queues = text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (address, queues) = (fields.next()?, fields.nth(2)?);
        let queue = u64::from_str_radix(queues.split(':').next()?, 16).ok()?;
        (address.ends_with(&local) && queue > 0).then_some(queue)
    });
    let (mut sockets, mut bytes) = (0, 0);
    for queue in queues {
        (sockets, bytes) = (sockets + 1, bytes + queue);
    }
    Ok((sockets, bytes))
}
