//! The session, its counts, and its end.

use serde_json::json;

use crate::{
    support::{
        Dialect, Door, Gate, Model, Server, Setup, Step, Tokens, Value, grammar,
        model::{bash, call, text},
    },
    through_every_door,
};

through_every_door! {
    the_session_is_made_on_first_use;
    concurrent_first_calls_make_one_session;
    a_title_is_set_or_made_from_the_first_words;
    stats_are_the_sum_of_what_was_done;
    reset_puts_a_new_session_in_its_place;
    reset_cancels_what_runs;
}

async fn the_session_is_made_on_first_use(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    assert!(server.rest.log().await.is_empty());
    let reply = client.get_session().await.expect("a session");
    let expected = json!({
        "id": reply.body["id"],
        "title": "",
        "message_count": 0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "cost": 0.0,
        "created_at": reply.body["created_at"],
        "updated_at": reply.body["created_at"],
        "permission_mode": "auto",
    });
    assert_eq!(reply.body, expected);
    assert!(reply.body["id"].as_str().is_some_and(|id| id.starts_with("ses_")), "{}", reply.body["id"]);
    let log = server.rest.log().await;
    assert_eq!(log[0].json["session"], expected);
    assert!(reply.cursor.as_ref().is_some_and(|cursor| cursor.ends_with("-1")));
    assert_eq!(client.get_session().await, Ok(reply), "and only then");
    assert_eq!(log.len(), 1);
}

async fn concurrent_first_calls_make_one_session(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    let calls = (0..16).map(|number| {
        let client = client.clone();
        async move {
            match number % 4 {
                0 => client.get_session_stats().await.map(|_| Value::Null),
                1 => client.update_session(json!({"title": "Same"})).await.map(|reply| reply.body["id"].clone()),
                _ => client.get_session().await.map(|reply| reply.body["id"].clone()),
            }
        }
    });
    let ids = futures_util::future::try_join_all(calls).await.expect("no call fails");
    let id = &client.get_session().await.expect("a session").body["id"];
    assert!(ids.iter().all(|found| found.is_null() || found == id), "{ids:?}");
    let log = server.rest.log().await;
    assert_eq!(log.iter().filter(|event| event.name == "session_created").count(), 1);
}

async fn a_title_is_set_or_made_from_the_first_words(door: Door) {
    let model = Model::start(Dialect::Anthropic, vec![vec![text("Yes.")]; 3]).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    server.rest.ask("  A title is made of\nthe first words, as many as go into fifty characters.").await;
    let made = client.get_session().await.expect("a session").body;
    assert_eq!(made["title"], "A title is made of the first words, as many as go");

    let set = client.update_session(json!({"title": "Mine ✓"})).await.expect("a session");
    assert_eq!(
        set.body,
        json!({"id": made["id"], "title": "Mine ✓", "message_count": 2, "prompt_tokens": 100,
        "completion_tokens": 20, "cost": made["cost"], "created_at": made["created_at"],
        "updated_at": set.body["updated_at"], "permission_mode": "auto"})
    );
    server.rest.ask("Another message").await;
    assert_eq!(client.get_session().await.expect("a session").body["title"], "Mine ✓", "what was set stays");

    for (change, field) in [(json!({}), "title"), (json!({"title": "x".repeat(201)}), "title")] {
        let refusal = client.update_session(change).await.expect_err("a refusal");
        assert_eq!((refusal.code.as_str(), refusal.fields), ("invalid_argument", vec![field.to_owned()]));
    }
    client.update_session(json!({"title": "ä".repeat(200)})).await.expect("200 characters");
}

async fn stats_are_the_sum_of_what_was_done(door: Door) {
    let first = Tokens { input: 1000, cache_read: 200, cache_write: 30, output: 400, reasoning: 50 };
    let second = Tokens { input: 7, cache_read: 11, cache_write: 13, output: 17, reasoning: 0 };
    let answers = [vec![Step::Usage(first), call("ls", &json!({}))], vec![Step::Usage(second), text("Done.")]];
    let model = Model::start(Dialect::Anthropic, answers).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    let turn = server.rest.ask("Count.").await["turn"].clone();
    // 4 dollars a million in, 20 out, 0.2 read from the cache, 5 written to it.
    let usage = json!({
        "prompt_tokens": 1261,
        "completion_tokens": 417,
        "cache_read_tokens": 211,
        "cache_write_tokens": 43,
        "reasoning_tokens": 50,
        "cost": 0.0126252,
        "cost_usd": "0.0126252",
        "cost_complete": true,
    });
    assert_eq!(turn["usage"], usage);
    let reply = client.get_session_stats().await.expect("counts");
    let expected = json!({
        "total_messages": 4,
        "user_messages": 1,
        "assistant_messages": 2,
        "tool_messages": 1,
        "prompt_tokens": 1261,
        "completion_tokens": 417,
        "total_cost": 0.0126252,
        "usage": usage,
        "last_activity": reply.body["last_activity"],
        "models_used": ["anthropic/claude-opus-5-5"],
        "current_model": "anthropic/claude-opus-5-5",
    });
    assert_eq!(reply.body, expected);
    let each: Vec<Value> = server.rest.messages().await.iter().filter_map(|it| it.get("usage").cloned()).collect();
    let sum: u64 = each.iter().map(|usage| usage["prompt_tokens"].as_u64().expect("a number")).sum();
    assert_eq!((each.len(), sum), (2, 1261));
    let session = client.get_session().await.expect("a session").body;
    assert_eq!((&session["cost"], &session["prompt_tokens"]), (&json!(0.0126252), &json!(1261)));

    // The ledger stays when messages go.
    client.clear_messages().await.expect("cleared");
    let after = client.get_session_stats().await.expect("counts").body;
    assert_eq!((&after["total_messages"], &after["tool_messages"]), (&json!(0), &json!(0)));
    assert_eq!(after["usage"], usage);
}

async fn reset_puts_a_new_session_in_its_place(door: Door) {
    let answer = [vec![bash("echo marker-of-the-output")], vec![text("marker-of-the-answer")]];
    let model = Model::start(Dialect::OpenAi, answer).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    let before = client.get_session().await.expect("a session").body;
    let turn = server.rest.ask("marker-of-the-question").await["turn"].clone();
    let markers = ["marker-of-the-output", "marker-of-the-answer", "marker-of-the-question"];
    assert!(markers.iter().all(|marker| server.data_holds(marker)), "the search finds what is there");

    let reply = client.reset_session(json!({"title": "New"})).await.expect("a session");
    let expected = json!({"id": reply.body["id"], "title": "New", "message_count": 0, "prompt_tokens": 0,
        "completion_tokens": 0, "cost": 0.0, "created_at": reply.body["created_at"],
        "updated_at": reply.body["updated_at"], "permission_mode": "auto"});
    assert_eq!(reply.body, expected);
    assert_ne!(reply.body["id"], before["id"]);
    assert_eq!(client.get_session().await, Ok(reply.clone()));
    assert_eq!(server.rest.log().await[0].json["session"], expected);
    for marker in markers {
        assert!(!server.data_holds(marker), "{marker} is still in the data directory");
    }
    assert_eq!(client.get_turn(&turn["id"], 0).await.expect("the turn stays").body, turn);
    let list = client.list_messages(json!({})).await.expect("a list").body;
    assert_eq!((&list["messages"], &list["pagination"]["total"]), (&json!([]), &json!(0)));
    assert_eq!(client.list_turns(json!({})).await.expect("a list").body["turns"], json!([]));

    // The next turn knows nothing of before.
    model.then(vec![text("Hello.")]);
    server.rest.ask("Who is there?").await;
    assert_eq!(model.asked(2).await.conversation().len(), 1);
    let refusal = client.reset_session(json!({"title": "x".repeat(201)})).await.expect_err("a refusal");
    assert_eq!(refusal.fields, ["title"]);
}

async fn reset_cancels_what_runs(door: Door) {
    let model = Model::start(Dialect::OpenAi, [vec![text("I "), Step::Wait(Gate::new())]]).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    let mut turn = server.rest.say(&json!({"text": "Talk."})).await;
    turn.until("content_delta").await;
    let session = client.reset_session(json!({})).await.expect("a session").body;
    assert_eq!((&session["title"], &session["message_count"]), (&json!(""), &json!(0)));
    model.left(1).await;
    // Its last events may be gone with all the others before its reader got them.
    let rest = turn.rest().await;
    let last = rest.last().expect("an event");
    assert!(
        last.json["finish_reason"] == "canceled" || last.json["reason"] == "expired",
        "the turn's end or that it is gone: {last:?}"
    );
    assert_eq!(client.get_agent_status().await.expect("a status").body["status"], "idle");
    model.then(vec![text("Here.")]);
    let sent = server.rest.ask("Who is there?").await;
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
    grammar::check(&server.rest.log().await);
    check_busy_never(&server).await;
}

async fn check_busy_never(server: &Server) {
    assert_eq!(server.rest.read("/agent/status").await.get("turn_id"), None);
}
