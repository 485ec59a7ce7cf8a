//! Reading the log from its beginning: as one stream, and in pages, through both doors.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use axum::http::uri::PathAndQuery;
use rusqlite::{Connection, params};
use serde::Deserialize;
use tonic::Request;
use tonic_prost::ProstCodec;

use crate::{
    Result, model,
    process::Home,
    rate,
    table::{Numbers, Row, Table, short},
    turn,
};

const EVENTS: u64 = 100_000;
const RUNS: usize = 5;

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let home = filled()?;
    let (server, address) = home.server(&[])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = turn::client()?;
    let (mut rest, mut grpc, mut json, mut list, mut file) =
        (Numbers::default(), Numbers::default(), Numbers::default(), Numbers::default(), Numbers::default());
    let mut cpu = Duration::ZERO;
    for _ in 0..RUNS {
        let push = |numbers: &mut Numbers, time: Duration| numbers.push(EVENTS as f64 / time.as_secs_f64());
        let before = server.cpu()?;
        push(&mut rest, read_all(address)?);
        cpu += server.cpu()? - before;
        push(&mut grpc, runtime.block_on(stream(address))?);
        push(&mut json, runtime.block_on(pages(&client, address))?);
        push(&mut list, runtime.block_on(list_events(address))?);
        push(&mut file, read_file(&home)?);
    }
    let what = |how: &str| format!("replay of {} events, {how} (min / median / max, per second)", short(EVENTS as f64));
    let us = cpu.as_secs_f64() * 1e6 / EVENTS as f64 / RUNS as f64;
    let rest_cell = format!("{}; {} us of CPU each", rest.spread(), short(us));
    let beside = format!("SQLite read alone, in this process: {}", file.spread());
    table.add(Row::new(what("GET /events?after=0"), "200,000", rest_cell, beside));
    table.add(Row::new(what("gRPC StreamEvents"), "", grpc.spread(), "the client decodes cursor and number only"));
    table.add(Row::new(what("GET /events in JSON pages of 1,000"), "", json.spread(), ""));
    table.add(Row::new(what("gRPC ListEvents in pages of 1,000"), "", list.spread(), ""));
    Ok(())
}

/// A log of [`EVENTS`] events: those of a real turn, whose deltas were copied.
pub(crate) fn filled() -> Result<Home> {
    let home = Home::new()?;
    one_turn(&home, "bulk-1000-5")?;
    let mut connection = Connection::open(home.log())?;
    let tx = connection.transaction()?;
    let last = "SELECT seq, total FROM events ORDER BY seq DESC LIMIT 1";
    let (mut seq, mut total): (i64, i64) = tx.query_row(last, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    {
        let mut deltas = tx.prepare("SELECT seq, json FROM events WHERE type = 'content_delta'")?;
        let deltas = deltas.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let deltas = deltas.collect::<rusqlite::Result<Vec<(i64, String)>>>()?;
        let mut copy = tx.prepare(
            "INSERT INTO events (seq, epoch, at, total, turn_id, message_id, type, json)
             SELECT ?1, epoch, at, ?2, turn_id, message_id, type, ?3 FROM events WHERE seq = ?4",
        )?;
        for (of, json) in deltas.iter().cycle() {
            if seq as u64 >= EVENTS {
                break;
            }
            seq += 1;
            let json = json.replacen(&format!("\"seq\":{of},"), &format!("\"seq\":{seq},"), 1);
            total += json.len() as i64;
            copy.execute(params![seq, total, json, of])?;
        }
    }
    tx.commit()?;
    Ok(home)
}

/// Makes one turn of this model in a new home.
pub(crate) fn one_turn(home: &Home, model: &str) -> Result<()> {
    let base = model::start()?;
    let (_server, address) = home.server(&model::variables(&base))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        let answer = turn::turn(&turn::client()?, address, model).send().await?.text().await?;
        Result::<String>::Ok(answer)
    })?;
    if answer.contains("\"finish_reason\":\"end_turn\"") { Ok(()) } else { Err(format!("no turn: {answer}").into()) }
}

/// Reads the stream from the beginning up to the last event.
pub(crate) fn read_all(address: SocketAddr) -> Result<Duration> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut text = Vec::with_capacity(64 << 20);
    let mut buffer = vec![0; 256 << 10];
    let last = format!("-{EVENTS}\n");
    let began = Instant::now();
    write!(stream, "GET /events?after=0 HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n")?;
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err("the stream ended too early".into());
        }
        // What was read before may hold the beginning of what is looked for.
        let from = text.len().saturating_sub(last.len());
        text.extend_from_slice(&buffer[..read]);
        if contains(&text[from..], last.as_bytes()) {
            break;
        }
    }
    let time = began.elapsed();
    let events = text.windows(8).filter(|window| window == b"\nevent: ").count() as u64;
    // The last one may not be whole yet.
    if events + 1 >= EVENTS { Ok(time) } else { Err(format!("{events} of {EVENTS} events came").into()) }
}

fn contains(text: &[u8], mark: &[u8]) -> bool {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == mark[0]) {
        if rest[at..].starts_with(mark) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// What SQLite itself takes for the rows.
fn read_file(home: &Home) -> Result<Duration> {
    let connection = Connection::open_with_flags(home.log(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let began = Instant::now();
    let mut statement = connection.prepare("SELECT seq, type, turn_id, json FROM events ORDER BY seq")?;
    let mut rows = statement.query([])?;
    let (mut count, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        count += 1;
        bytes += row.get_ref(3)?.as_bytes()?.to_vec().len();
    }
    if count >= EVENTS && bytes > 0 { Ok(began.elapsed()) } else { Err(format!("{count} rows in the file").into()) }
}

#[derive(Clone, PartialEq, prost::Message)]
struct StreamEventsRequest {
    #[prost(string, tag = "1")]
    after: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ListEventsRequest {
    #[prost(string, tag = "1")]
    after: String,
    #[prost(int32, tag = "4")]
    limit: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ListEventsResponse {
    #[prost(message, repeated, tag = "1")]
    events: Vec<Event>,
    #[prost(string, tag = "2")]
    next: String,
    #[prost(bool, tag = "3")]
    has_more: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(string, tag = "1")]
    cursor: String,
    #[prost(uint64, tag = "2")]
    seq: u64,
}

async fn stream(address: SocketAddr) -> Result<Duration> {
    let mut client = rate::connect(address).await?;
    client.ready().await?;
    let path = PathAndQuery::from_static("/opencode.v1.OpenCodeService/StreamEvents");
    let codec = ProstCodec::<StreamEventsRequest, Event>::default();
    let began = Instant::now();
    let answer = client.server_streaming(Request::new(StreamEventsRequest { after: "0".into() }), path, codec).await?;
    let mut events = answer.into_inner();
    let mut count = 0;
    while let Some(event) = events.message().await? {
        count += u64::from(event.seq > 0);
        if event.seq >= EVENTS {
            return if count >= EVENTS { Ok(began.elapsed()) } else { Err(format!("{count} events came").into()) };
        }
    }
    Err("the stream ended too early".into())
}

async fn list_events(address: SocketAddr) -> Result<Duration> {
    let mut client = rate::connect(address).await?;
    let (mut after, mut count) = (String::from("0"), 0);
    let began = Instant::now();
    while count < EVENTS {
        client.ready().await?;
        let path = PathAndQuery::from_static("/opencode.v1.OpenCodeService/ListEvents");
        let codec = ProstCodec::<ListEventsRequest, ListEventsResponse>::default();
        let page =
            client.unary(Request::new(ListEventsRequest { after, limit: 1000 }), path, codec).await?.into_inner();
        count += page.events.len() as u64;
        after = page.next;
        if !page.has_more && count < EVENTS {
            return Err(format!("{count} events came").into());
        }
    }
    Ok(began.elapsed())
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Box<serde_json::value::RawValue>>,
    next: String,
}

async fn pages(client: &reqwest::Client, address: SocketAddr) -> Result<Duration> {
    let (mut after, mut count) = (String::from("0"), 0);
    let began = Instant::now();
    while count < EVENTS {
        let url = format!("http://{address}/events?limit=1000&after={after}");
        let answer = client.get(url).header("accept", "application/json").send().await?.error_for_status()?;
        let page: Page = answer.json().await?;
        if page.events.is_empty() {
            return Err(format!("{count} events came").into());
        }
        count += page.events.len() as u64;
        after = page.next;
    }
    Ok(began.elapsed())
}
