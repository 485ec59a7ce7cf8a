//! A page of messages out of few and out of many: by cursor it should cost the same.

use std::{net::SocketAddr, time::Instant};

use reqwest::Client;
use rusqlite::{Connection, params};
use serde::Deserialize;

use crate::{
    Result,
    process::Home,
    replay::one_turn,
    table::{Numbers, Row, Table},
    turn,
};

const FEW: u64 = 100;
const MANY: u64 = 100_000;
const REQUESTS: usize = 300;

#[derive(Deserialize)]
struct Page {
    messages: Vec<serde::de::IgnoredAny>,
    pagination: Pagination,
}

#[derive(Deserialize)]
struct Pagination {
    total: u64,
    next_cursor: Option<String>,
}

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let (few, many) = (filled(FEW)?, filled(MANY)?);
    let ((_few, few), (_many, many)) = (few.server(&[])?, many.server(&[])?);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let client = turn::client()?;
        compare(table, &client, (few, "limit=50".into()), (many, "limit=50".into()), "the first page").await?;
        let desc = || "limit=50&order=desc".to_owned();
        compare(table, &client, (few, desc()), (many, desc()), "the first page of order=desc").await?;
        let middles = (middle(&client, few, FEW, "asc").await?, middle(&client, many, MANY, "asc").await?);
        compare(table, &client, (few, middles.0), (many, middles.1), "a page by cursor in the middle").await?;
        let middles = (middle(&client, few, FEW, "desc").await?, middle(&client, many, MANY, "desc").await?);
        compare(table, &client, (few, middles.0), (many, middles.1), "a page by cursor in the middle, desc").await
    })
}

/// The query of the page behind the middle.
async fn middle(client: &Client, server: SocketAddr, total: u64, order: &str) -> Result<String> {
    let skip = total / 2 - 1;
    let (_, page) = get(client, server, &format!("limit=1&offset={skip}&order={order}")).await?;
    let cursor = page.pagination.next_cursor.ok_or("the middle has no next page")?;
    Ok(format!("limit=50&order={order}&cursor={cursor}"))
}

async fn compare(
    table: &mut Table,
    client: &Client,
    few: (SocketAddr, String),
    many: (SocketAddr, String),
    what: &str,
) -> Result<()> {
    let (mut small, mut large) = (Numbers::default(), Numbers::default());
    for round in 0..REQUESTS + 20 {
        for ((server, query), numbers, total) in [(&few, &mut small, FEW), (&many, &mut large, MANY)] {
            let (time, page) = get(client, *server, query).await?;
            if page.messages.len() != 50 || page.pagination.total != total {
                return Err(format!("{} messages of {}", page.messages.len(), page.pagination.total).into());
            }
            if round >= 20 {
                numbers.push(time);
            }
        }
    }
    table.add(Row::new(
        format!("50 of 100,000 messages, {what}, {REQUESTS} times (ms)"),
        "as with 100",
        format!("{}; ratio {:.2}", large.percentiles(), large.median() / small.median()),
        format!("50 of 100 messages: {}", small.percentiles()),
    ));
    Ok(())
}

/// A page, and the milliseconds until it was there.
async fn get(client: &Client, server: SocketAddr, query: &str) -> Result<(f64, Page)> {
    let began = Instant::now();
    let answer = client.get(format!("http://{server}/messages?{query}")).send().await?.error_for_status()?;
    let body = answer.bytes().await?;
    Ok((began.elapsed().as_secs_f64() * 1e3, serde_json::from_slice(&body)?))
}

/// A session of so many messages: the two of a real turn, copied.
fn filled(messages: u64) -> Result<Home> {
    let home = Home::new()?;
    one_turn(&home, "bulk-20-50")?;
    let mut connection = Connection::open(home.log())?;
    let tx = connection.transaction()?;
    {
        let mut rows = tx.prepare("SELECT id, role, view FROM messages ORDER BY ord")?;
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let rows = rows.collect::<rusqlite::Result<Vec<(String, String, String)>>>()?;
        let mut copy = tx.prepare("INSERT INTO messages (id, role, open, view) VALUES (?1, ?2, 0, ?3)")?;
        for number in rows.len() as u64..messages {
            let (id, role, view) = &rows[number as usize % rows.len()];
            let other = format!("{id}-{number}");
            copy.execute(params![other, role, view.replace(id, &other)])?;
        }
    }
    tx.execute(
        "UPDATE sessions SET user_messages = (SELECT COUNT(*) FROM messages WHERE role = 'user'),
         assistant_messages = (SELECT COUNT(*) FROM messages WHERE role = 'assistant')",
        [],
    )?;
    tx.commit()?;
    Ok(home)
}
