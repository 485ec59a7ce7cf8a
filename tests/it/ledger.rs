//! The ledger as clients read it: each call of a provider, what it used, at which price, and what came of it.

use serde_json::json;

use crate::{
    ledger_sums::{reconcile, rows},
    support::{
        Dialect, Door, Model, Setup, Step, Tokens, Value,
        model::{call, text},
    },
    through_every_door,
};

through_every_door! {
    each_call_has_a_row;
    the_ledger_is_read_in_pages;
    it_outlives_the_messages_and_not_the_session;
}

const USED: Tokens = Tokens { input: 1000, cache_read: 200, cache_write: 30, output: 400, reasoning: 50 };

/// The provider has no time, at once.
pub fn overloaded() -> Vec<Step> {
    let body = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    vec![Step::Http { status: 529, headers: vec![("retry-after", "0".into())], body }]
}

async fn each_call_has_a_row(door: Door) {
    let answers = [
        overloaded(),
        vec![Step::Usage(USED), call("ls", &json!({}))],
        vec![Step::Usage(USED), text("Done.")],
        vec![Step::Usage(USED), text("Done.")],
    ];
    let model = Model::start(Dialect::Anthropic, answers).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    let first = server.rest.ask("Count.").await["turn"].clone();
    let unpriced = json!({"parts": [{"type": "text", "text": "Again."}], "model": "anthropic/of-their-own"});
    let second = client.begin_turn(unpriced).await.expect("a turn").body;
    let second = server.rest.ended_turn(&second["id"]).await;

    let reply = client.list_ledger(json!({})).await.expect("a page");
    assert!(reply.cursor.is_some(), "followed from there");
    let calls = reply.body["calls"].as_array().expect("rows");
    let brief = |row: &Value| json!([row["attempt"], row["kind"], row["outcome"], row["turn_id"]]);
    let expected = [
        json!([1, "turn", "provider_unavailable", first["id"]]),
        json!([2, "turn", "ok", first["id"]]),
        json!([1, "turn", "ok", first["id"]]),
        json!([1, "turn", "ok", second["id"]]),
    ];
    assert_eq!(calls.iter().map(brief).collect::<Vec<_>>(), expected);

    // A whole row: 4 dollars a million in, 20 out, 0.2 read from the cache, 5 written to it.
    let answer = &client.list_messages(json!({"role": "assistant"})).await.expect("messages").body["messages"][0];
    let row = json!({
        "id": "c2",
        "at": calls[1]["at"],
        "turn_id": first["id"],
        "message_id": answer["id"],
        "kind": "turn",
        "model": model.id(),
        "attempt": 2,
        "outcome": "ok",
        "duration_ms": calls[1]["duration_ms"],
        "usage": {
            "prompt_tokens": 1230,
            "completion_tokens": 400,
            "cache_read_tokens": 200,
            "cache_write_tokens": 30,
            "reasoning_tokens": 50,
            "cost": 0.01219,
            "cost_usd": "0.01219",
            "cost_complete": true,
        },
        "price": {"input_per_1m": "4", "output_per_1m": "20", "cache_read_per_1m": "0.2", "cache_write_per_1m": "5"},
    });
    assert_eq!(calls[1], row);
    // What was refused cost nothing, which is known.
    assert_eq!((&calls[0]["usage"]["cost_usd"], &calls[0]["usage"]["cost_complete"]), (&json!("0"), &json!(true)));
    assert_eq!(calls[0].get("message_id"), None);
    // A model without a price says so, and has its tokens all the same.
    let unpriced = &calls[3];
    assert_eq!((unpriced.get("price"), unpriced["usage"].get("cost_usd")), (None, None));
    assert_eq!(
        (&unpriced["usage"]["cost_complete"], &unpriced["usage"]["prompt_tokens"]),
        (&json!(false), &json!(1230))
    );
    assert_eq!((second["usage"].get("cost_usd"), &second["usage"]["cost_complete"]), (None, &json!(false)));
    assert_eq!(first["usage"]["cost_complete"], true);
    reconcile(&client).await;
}

async fn the_ledger_is_read_in_pages(door: Door) {
    let answers = (0..7).map(|number| vec![Step::Usage(Tokens { output: number, ..USED }), text("Yes.")]);
    let model = Model::start(Dialect::OpenAi, answers).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    for _ in 0..7 {
        server.rest.ask("Is it so?").await;
    }
    let numbers = |page: &Value| -> Vec<u64> {
        let rows = page["calls"].as_array().expect("rows");
        rows.iter().map(|row| row["usage"]["completion_tokens"].as_u64().expect("a number")).collect()
    };
    let page = client.list_ledger(json!({"limit": 3, "order": "desc"})).await.expect("a page").body;
    assert_eq!(numbers(&page), [6, 5, 4]);
    assert_eq!((&page["pagination"]["total"], &page["pagination"]["has_more"]), (&json!(7), &json!(true)));
    let cursor = page["pagination"]["next_cursor"].clone();
    let next = json!({"limit": 3, "order": "desc", "cursor": cursor});
    assert_eq!(numbers(&client.list_ledger(next).await.expect("a page").body), [3, 2, 1]);
    let skipped = client.list_ledger(json!({"limit": 3, "offset": 5})).await.expect("a page").body;
    assert_eq!((numbers(&skipped), &skipped["pagination"]["has_more"]), (vec![5, 6], &json!(false)));
    for wrong in [json!({"cursor": cursor}), json!({"cursor": cursor, "order": "desc", "turn_id": "turn_nobody"})] {
        let refused = client.list_ledger(wrong).await.expect_err("a cursor of another list");
        assert_eq!((refused.code.as_str(), refused.fields), ("invalid_argument", vec!["cursor".to_owned()]));
    }
    let refused = client.list_ledger(json!({"turn_id": "turn_nobody"})).await.expect_err("no such turn");
    assert_eq!(refused.code, "not_found");
}

async fn it_outlives_the_messages_and_not_the_session(door: Door) {
    let model = Model::start(Dialect::Anthropic, [vec![text("Yes.")], vec![text("No.")]]).await;
    let mut server = Setup::with(&model).start();
    let turn = server.rest.ask("Is it so?").await["turn"].clone();
    let client = server.through(door);
    let before = rows(&client, json!({})).await;
    client.clear_messages().await.expect("cleared");
    assert_eq!(rows(&client, json!({})).await, before);
    reconcile(&client).await;
    server.restart().await;
    let client = server.through(door);
    assert_eq!(rows(&client, json!({})).await, before);
    client.reset_session(json!({})).await.expect("a session");
    assert_eq!(rows(&client, json!({})).await, [json!(null); 0]);
    // A turn of a session before is still there, and so is what it cost.
    assert_eq!(rows(&client, json!({"turn_id": turn["id"]})).await, before);
    server.rest.ask("Is it so?").await;
    assert_eq!(rows(&client, json!({})).await.len(), 1);
    reconcile(&client).await;
}
