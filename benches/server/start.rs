//! Cold start, and what the server takes when it has nothing to do.

use std::time::{Duration, Instant};

use crate::{
    Result,
    peer::Peer,
    process::{Home, health},
    table::{Numbers, Row, Table, short},
};

const RUNS: usize = 20;

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let (mut fresh, mut known, mut peer) = (Numbers::default(), Numbers::default(), Numbers::default());
    let home = Home::new()?;
    drop(home.server(&[])?);
    for _ in 0..RUNS {
        fresh.push_ms(start(&Home::new()?)?);
        known.push_ms(start(&home)?);
        let began = Instant::now();
        let bare = Peer::start()?;
        health(bare.http)?;
        peer.push_ms(began.elapsed());
    }
    let target = "15 ms";
    let beside = format!("bare axum process {}; {}", peer.spread(), home.sync()?);
    for (what, numbers) in [("new data directory", fresh), ("existing one", known)] {
        let what = format!("cold start, {what}: spawn to first 200, {RUNS} runs (min / median / max, ms)");
        table.add(Row::new(what, target, numbers.spread(), beside.clone()));
    }
    Ok(())
}

fn start(home: &Home) -> Result<Duration> {
    let began = Instant::now();
    let (_server, address) = home.server(&[])?;
    health(address)?;
    Ok(began.elapsed())
}

pub(crate) fn measure_idle(table: &mut Table) -> Result<()> {
    let (mut all, mut anonymous) = (Numbers::default(), Numbers::default());
    let second = Duration::from_secs(1);
    for _ in 0..3 {
        let home = Home::new()?;
        let (server, address) = home.server(&[])?;
        health(address)?;
        std::thread::sleep(second);
        all.push(server.memory("VmRSS")? / 1024.0);
        anonymous.push(server.memory("RssAnon")? / 1024.0);
    }
    let peer = Peer::start()?;
    health(peer.http)?;
    std::thread::sleep(second);
    let beside = format!("bare axum process {}", short(peer.process.memory("VmRSS")? / 1024.0));
    let measured = format!("{}, of it anonymous {}", all.spread(), short(anonymous.median()));
    table.add(Row::new("idle RSS, 1 s after one GET /health (min / median / max, MiB)", "12", measured, beside));
    Ok(())
}
