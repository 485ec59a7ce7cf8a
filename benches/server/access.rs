//! What it costs to ask for a token, to keep a key, and to end.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    Result,
    process::Home,
    rate::{SECONDS, http_get},
    table::{Numbers, Row, Table, short},
    turn::client,
};

const TOKEN: &str = "a-token-of-the-benchmark";
const ROUNDS: usize = 5;
const KEYS: usize = 300;
const STOPS: usize = 20;

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let (open_home, guarded_home) = (Home::new()?, Home::new()?);
    let (open, open_at) = open_home.server(&[])?;
    let (guarded, guarded_at) = guarded_home.server(&[("OPENCODE_API_TOKEN", TOKEN)])?;
    let header = format!("Authorization: Bearer {TOKEN}");
    let (mut without, mut with) = (Numbers::default(), Numbers::default());
    let (mut cpu_without, mut cpu_with) = (Numbers::default(), Numbers::default());
    for _ in 0..ROUNDS {
        for (server, address, header, rates, cpus) in [
            (&open, open_at, None, &mut without, &mut cpu_without),
            (&guarded, guarded_at, Some(header.as_str()), &mut with, &mut cpu_with),
        ] {
            let before = server.cpu()?;
            let load = http_get(address, "/session", header)?;
            cpus.push((server.cpu()? - before).as_secs_f64() * 1e6 / (load.per_second * SECONDS as f64));
            rates.push(load.per_second);
        }
    }
    let ratio = with.median() / without.median();
    table.add(Row::new(
        format!("GET /session with a token, {ROUNDS} x {SECONDS} s (min / median / max, per second)"),
        "0.9 of without; 5 us",
        format!("{}; {:+.1} us of CPU each", with.spread(), cpu_with.median() - cpu_without.median()),
        format!("without {}; ratio {ratio:.2}; {} us of CPU each", without.spread(), short(cpu_without.median())),
    ));
    Ok(())
}

/// A message that is accepted with an `Idempotency-Key`, beside one without: both wait for the disk once.
pub(crate) fn measure_keys(table: &mut Table) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let home = Home::new()?;
        let (_server, address) = home.server(&[])?;
        let client = client()?;
        let (mut with, mut without) = (Numbers::default(), Numbers::default());
        for number in 0..KEYS {
            for has_key in [number % 2 == 0, number % 2 != 0] {
                let body = json!({"text": "Hello.", "model": "mock/demo"});
                let request = client.post(format!("http://{address}/messages")).header("prefer", "respond-async");
                let request =
                    if has_key { request.header("idempotency-key", format!("key-{number}")) } else { request };
                let began = Instant::now();
                let answer = request.json(&body).send().await?.error_for_status()?;
                let took = began.elapsed();
                let id =
                    answer.json::<serde_json::Value>().await?["turn"]["id"].as_str().unwrap_or_default().to_owned();
                if has_key { &mut with } else { &mut without }.push_ms(took);
                client.post(format!("http://{address}/agent/cancel")).json(&json!({"turn_id": id})).send().await?;
            }
        }
        let more = with.median() - without.median();
        table.add(Row::new(
            format!("POST /messages to its 202 with an Idempotency-Key, {KEYS} (p50 / p99, ms)"),
            "1 ms more",
            format!("{}; median {more:+.2}", with.percentiles()),
            format!("without {}; {}", without.percentiles(), home.sync()?),
        ));
        Ok(())
    })
}

/// From SIGTERM to the end of an idle process.
pub(crate) fn measure_stop(table: &mut Table) -> Result<()> {
    let mut times = Numbers::default();
    for _ in 0..STOPS {
        let home = Home::new()?;
        let (mut server, address) = home.server(&[])?;
        crate::process::health(address)?;
        // What is begun at the start has ended by then.
        std::thread::sleep(Duration::from_millis(300));
        times.push_ms(server.stop()?);
    }
    table.add(Row::new(
        format!("SIGTERM to exit, idle, {STOPS} runs (min / median / max, ms)"),
        "200 ms",
        times.spread(),
        "",
    ));
    Ok(())
}
