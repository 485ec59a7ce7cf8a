//! A turn: how long until the first word, and what each further word loses on its way.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::{
    Result, model,
    process::Home,
    table::{Numbers, Row, Table, short},
};

const TURNS: usize = 60;
const TOKENS: u64 = 1000;
const PERIOD_US: u64 = 5000;
const ROUNDS: usize = 3;

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let base = model::start()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        first_words(table, &base, 20).await?;
        first_words(table, &base, 0).await?;
        each_word(table, &base).await
    })
}

/// An HTTP client as the server's own is.
pub(crate) fn client() -> Result<Client> {
    // An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::builder().no_proxy().tls_certs_only([]).build()?)
}

/// A turn of this model, as a stream.
pub(crate) fn turn(client: &Client, server: SocketAddr, model: &str) -> RequestBuilder {
    let message = json!({"text": "How long does it take?", "model": format!("openai/{model}")});
    client.post(format!("http://{server}/messages")).header("accept", "text/event-stream").json(&message)
}

fn direct(client: &Client, base: &str, model: &str) -> RequestBuilder {
    let messages = json!([{"role": "user", "content": "How long does it take?"}]);
    let body = json!({"model": model, "stream": true, "messages": messages});
    client.post(format!("{base}/chat/completions")).json(&body)
}

async fn first_words(table: &mut Table, base: &str, wait: u64) -> Result<()> {
    let model = format!("wait-{wait}");
    let client = client()?;
    let home = Home::new()?;
    let (_server, server) = home.server(&model::variables(base))?;
    let (mut through, mut own, mut added) = (Numbers::default(), Numbers::default(), Numbers::default());
    let mut cold = Duration::ZERO;
    for round in 0..=TURNS {
        let alone = first(direct(&client, base, &model), "\"content\":\"").await?;
        let shown = first(turn(&client, server, &model), "event: content_delta").await?;
        if round == 0 {
            // The first turn of a process makes its HTTP client.
            cold = shown;
            continue;
        }
        own.push_ms(alone);
        through.push_ms(shown);
        added.push((shown.as_secs_f64() - alone.as_secs_f64()) * 1e3);
    }
    table.add(Row::new(
        format!("POST /messages to first content_delta, model waits {wait} ms, {} turns (ms)", through.len()),
        "1.3 x the model's own, or + 2 ms",
        format!(
            "{}; {:.2} x, + {} ms (the first turn of the process: {} ms)",
            through.percentiles(),
            through.median() / own.median(),
            short(added.median()),
            short(cold.as_secs_f64() * 1e3),
        ),
        format!("the model asked directly: {}; {}", own.percentiles(), home.sync()?),
    ));
    Ok(())
}

/// Time until `mark` is in the answer, which is then read to its end.
async fn first(request: RequestBuilder, mark: &str) -> Result<Duration> {
    let began = Instant::now();
    let mut answer = checked(request).await?;
    let mut text = String::new();
    let mut found = None;
    while let Some(chunk) = answer.chunk().await? {
        if found.is_none() {
            text.push_str(&String::from_utf8_lossy(&chunk));
            found = text.contains(mark).then(|| began.elapsed());
        }
    }
    Ok(found.ok_or_else(|| format!("no {mark} in {text}"))?)
}

async fn checked(request: RequestBuilder) -> Result<Response> {
    let answer = request.send().await?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    Err(format!("{}: {}", answer.status(), answer.text().await?).into())
}

async fn each_word(table: &mut Table, base: &str) -> Result<()> {
    let model = format!("ticks-{TOKENS}-{PERIOD_US}");
    let client = client()?;
    let home = Home::new()?;
    let (server, address) = home.server(&model::variables(base))?;
    // The first turn of a process makes its HTTP client.
    first(turn(&client, address, "wait-0"), "event: content_delta").await?;
    let (mut through, mut own, mut rounds) = (Numbers::default(), Numbers::default(), Vec::new());
    let (mut cpu, mut waited) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        delays(direct(&client, base, &model), &mut own, |data| data["choices"][0]["delta"]["content"].clone()).await?;
        let before = (server.cpu()?, server.waited()?);
        let mut round = Numbers::default();
        let text = |data: &Value| if data["type"] == "content_delta" { data["text"].clone() } else { Value::Null };
        delays(turn(&client, address, &model), &mut round, text).await?;
        cpu += server.cpu()? - before.0;
        waited += server.waited()?.saturating_sub(before.1);
        rounds.push(short(round.at(0.99)));
        through.append(round);
    }
    let words = through.len();
    let direct = own.percentiles();
    table.add(Row::new(
        format!("added per token at 200 tokens/s: sent by the model to seen in the SSE, {words} tokens (ms)"),
        "p99 1",
        format!(
            "{} (p99 of each {TOKENS}: {}); {} ms of CPU per 1,000, and {} of waiting for a core",
            through.percentiles(),
            rounds.join(", "),
            short(cpu.as_secs_f64() * 1e6 / words as f64),
            short(waited.as_secs_f64() * 1e6 / words as f64),
        ),
        format!("read from the model directly: {direct}"),
    ));
    Ok(())
}

/// For each stamp in an answer: milliseconds from its sending to its coming.
async fn delays(request: RequestBuilder, delays: &mut Numbers, text: impl Fn(&Value) -> Value) -> Result<()> {
    let mut answer = checked(request).await?;
    let mut rest = Vec::new();
    let before = delays.len();
    while let Some(chunk) = answer.chunk().await? {
        let now = model::micros();
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data: ").and_then(|data| serde_json::from_slice(data).ok()) else {
                continue;
            };
            if let Some(sent) = text(&data).as_str().and_then(|text| text.trim().parse::<u64>().ok()) {
                delays.push(now.saturating_sub(sent) as f64 / 1e3);
            }
        }
    }
    let seen = delays.len() - before;
    if seen as u64 == TOKENS { Ok(()) } else { Err(format!("{seen} of {TOKENS} tokens came one by one").into()) }
}
