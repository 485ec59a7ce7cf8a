//! Messages: listed, read, cut where they are large, cleared.

use serde_json::json;

use crate::{
    support::{
        Client, Dialect, Door, Gate, Model, Server, Setup, Step, Value,
        model::{bash, call, text},
    },
    through_every_door,
};

through_every_door! {
    messages_come_in_pages;
    a_page_cursor_belongs_to_its_list;
    a_message_is_what_was_said;
    large_parts_are_cut_in_lists_and_whole_by_themselves;
    files_come_with_a_message;
    clearing_takes_all_messages;
    whole_messages_are_followed;
}

/// A server with `count` questions and their answers.
async fn with_messages(count: usize) -> (Model, Server) {
    let model = Model::start(Dialect::Anthropic, vec![vec![text("Yes.")]; count]).await;
    let server = Setup::with(&model).start();
    for number in 0..count {
        server.rest.ask(&format!("Question {number}?")).await;
    }
    (model, server)
}

async fn messages_come_in_pages(door: Door) {
    let (_model, server) = with_messages(4).await;
    let client = server.through(door);
    let all = server.rest.messages().await;
    assert_eq!(all.len(), 8);
    let whole = client.list_messages(json!({})).await.expect("a list");
    let head = server.rest.log().await.len() as u64;
    let cursor = whole.cursor.clone().expect("a cursor");
    let expected = json!({
        "messages": all,
        "pagination": {"total": 8, "limit": 50, "offset": 0, "has_more": false},
        "as_of": cursor,
        "as_of_seq": head,
    });
    assert_eq!(whole.body, expected);
    assert!(cursor.ends_with(&format!("-{head}")));

    let reversed: Vec<Value> = all.iter().rev().cloned().collect();
    for (order, expected) in [("asc", &all), ("desc", &reversed)] {
        let (mut found, mut query) = (Vec::new(), json!({"limit": 3, "order": order}));
        loop {
            let page = client.list_messages(query.clone()).await.expect("a list").body;
            found.extend(page["messages"].as_array().expect("a list").iter().cloned());
            assert_eq!((&page["pagination"]["total"], &page["pagination"]["limit"]), (&json!(8), &json!(3)));
            assert_eq!(page["pagination"]["has_more"], found.len() < 8);
            let Some(next) = page["pagination"].get("next_cursor") else { break };
            query["cursor"] = next.clone();
        }
        assert_eq!(&found, expected, "{order}");
    }

    let offset = client.list_messages(json!({"limit": 2, "offset": 5})).await.expect("a list").body;
    assert_eq!(offset["messages"], json!(all[5..7]));
    let pagination = json!({"total": 8, "limit": 2, "offset": 5, "has_more": true,
        "next_cursor": offset["pagination"]["next_cursor"]});
    assert_eq!(offset["pagination"], pagination);
    let beyond = client.list_messages(json!({"limit": 200, "offset": i32::MAX})).await.expect("a list").body;
    assert_eq!((&beyond["messages"], &beyond["pagination"]["total"]), (&json!([]), &json!(8)));

    for (role, count) in [("user", 4), ("assistant", 4), ("tool", 0)] {
        let page = client.list_messages(json!({"role": role, "limit": 200})).await.expect("a list").body;
        let expected: Vec<&Value> = all.iter().filter(|message| message["role"] == role).collect();
        assert_eq!((&page["messages"], &page["pagination"]["total"]), (&json!(expected), &json!(count)));
    }
}

async fn a_page_cursor_belongs_to_its_list(door: Door) {
    let (_model, server) = with_messages(2).await;
    let client = server.through(door);
    let page = client.list_messages(json!({"limit": 1})).await.expect("a list").body;
    let cursor = page["pagination"]["next_cursor"].clone();
    let refused = async |query: Value, field: &str| {
        let refusal = client.list_messages(query.clone()).await.expect_err("a refusal");
        assert_eq!((refusal.code.as_str(), refusal.fields), ("invalid_argument", vec![field.to_owned()]), "{query}");
    };
    refused(json!({"cursor": cursor, "offset": 1}), "offset").await;
    refused(json!({"cursor": cursor, "order": "desc"}), "cursor").await;
    refused(json!({"cursor": "nonsense"}), "cursor").await;
    refused(json!({"cursor": server.rest.log().await[0].seq().to_string()}), "cursor").await;
    for limit in [-1, 201, i32::MAX, i32::MIN] {
        refused(json!({ "limit": limit }), "limit").await;
    }
    refused(json!({"offset": -1}), "offset").await;
    client.list_turns(json!({ "cursor": cursor })).await.expect_err("of another list");
    client.reset_session(json!({})).await.expect("a session");
    refused(json!({ "cursor": cursor }), "cursor").await;
}

async fn a_message_is_what_was_said(door: Door) {
    let steps = vec![
        Step::Reasoning { text: "Hm.".into(), signature: "c2ln" },
        text("Let me see."),
        call("view", &json!({"path": "README.md"})),
        bash("exit 3"),
    ];
    let model = Model::start(Dialect::Anthropic, [steps, vec![text("Done.")]]).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    let turn = server.rest.ask("Look.").await["turn"].clone();
    let session = client.get_session().await.expect("a session").body["id"].clone();
    let all = client.list_messages(json!({})).await.expect("a list").body["messages"].clone();
    let [user, answer, results, last] = all.as_array().expect("a list").as_slice() else { panic!("{all}") };
    let log = server.rest.log().await;
    let seq = |name: &str, id: &Value| {
        let of_it = |event: &&crate::support::Event| event.message().is_some_and(|message| &message["id"] == id);
        log.iter().rfind(|event| event.name == name && of_it(event)).map(|event| event.seq())
    };
    let common = |message: &Value| {
        json!({"id": message["id"], "session_id": session, "turn_id": turn["id"], "model": "anthropic/claude-opus-5-5",
            "created_at": message["created_at"], "updated_at": message["updated_at"],
            "finished_at": message["updated_at"]})
    };
    let with = |mut message: Value, fields: Value| {
        message.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        message
    };
    let parts = json!([{"type": "text", "text": "Look."}]);
    let expected = json!({"role": "user", "parts": parts, "seq": seq("message_created", &user["id"])});
    assert_eq!(*user, with(common(user), expected));

    let call_ids = [&answer["parts"][2]["id"], &answer["parts"][3]["id"]];
    assert_ne!(call_ids[0], call_ids[1], "ids of the server's own, whatever the provider sent");
    let parts = json!([
        {"type": "reasoning", "thinking": "Hm."},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_call", "id": call_ids[0], "name": "view", "input": {"path": "README.md"}},
        {"type": "tool_call", "id": call_ids[1], "name": "bash", "input": {"command": "exit 3"}},
        {"type": "finish", "reason": "tool_use", "time": answer["finished_at"]},
    ]);
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 20, "cache_read_tokens": 0, "cache_write_tokens": 0,
        "reasoning_tokens": 0, "cost": 0.0008, "cost_usd": "0.0008", "cost_complete": true});
    let expected = json!({"role": "assistant", "parts": parts, "usage": usage,
        "seq": seq("message_updated", &answer["id"])});
    assert_eq!(*answer, with(common(answer), expected));

    assert_eq!((&results["role"], &results["seq"]), (&json!("tool"), &json!(seq("message_updated", &results["id"]))));
    let [viewed, ran] = results["parts"].as_array().expect("parts").as_slice() else { panic!("{results}") };
    assert_eq!((&viewed["tool_call_id"], &viewed["is_error"]), (call_ids[0], &json!(false)));
    assert!(viewed["content"].as_str().is_some_and(|content| content.contains("# A project")), "{viewed}");
    assert_eq!((&ran["tool_call_id"], &ran["metadata"]["exit_code"]), (call_ids[1], &json!(3)));

    for message in [user, answer, results, last] {
        let reply = client.get_message(&message["id"]).await.expect("a message");
        assert_eq!(&reply.body, message);
        assert!(reply.cursor.is_some());
    }
    for (index, kind, content) in [
        (0, "text/plain; charset=utf-8", "Hm."),
        (1, "text/plain; charset=utf-8", "Let me see."),
        (2, "application/json", r#"{"path":"README.md"}"#),
    ] {
        let part = client.get_message_part(&answer["id"], index).await.expect("a part");
        assert_eq!(part, (content.as_bytes().to_vec(), kind.to_owned()));
    }
    for (id, index) in [(&answer["id"], 5), (&answer["id"], -1), (&json!("msg_nonsense"), 0)] {
        let refusal = client.get_message_part(id, index).await.expect_err("a refusal");
        assert_eq!(refusal.code, "not_found", "{index}");
    }
    assert_eq!(client.get_message(&json!("msg_nonsense")).await.expect_err("a refusal").code, "not_found");
}

async fn large_parts_are_cut_in_lists_and_whole_by_themselves(door: Door) {
    let long = "ä".repeat(50_000);
    let steps = vec![call("write", &json!({"path": "long.txt", "content": long})), bash("cat long.txt; echo")];
    let model = Model::start(Dialect::OpenAi, [steps, vec![text("Done.")]]).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    server.rest.ask("Write.").await;
    let list = client.list_messages(json!({})).await.expect("a list").body;
    let cut = &list["messages"][1]["parts"][0];
    let whole = json!({"path": "long.txt", "content": long}).to_string();
    assert_eq!((&cut["truncated"], &cut["size"]), (&json!(true), &json!(whole.len())));
    let shown = cut["input"].as_str().expect("the beginning of the text");
    assert!(shown.len() <= 64 * 1024 && shown.len() > 64 * 1024 - 4);
    let (data, kind) = client.get_message_part(&list["messages"][1]["id"], 0).await.expect("a part");
    let parsed: Value = serde_json::from_slice(&data).expect("JSON");
    assert_eq!((parsed, kind.as_str()), (json!({"path": "long.txt", "content": long}), "application/json"));
    // The events cut it likewise.
    let log = server.rest.log().await;
    let started = log.iter().find(|event| event.name == "tool_call_started").expect("a call");
    assert_eq!((&started.json["truncated"], &started.json["size"]), (&json!(true), &json!(whole.len())));
    assert!(log.iter().all(|event| event.json.to_string().len() < 3 * 1024 * 1024));
    // The model is told all of it.
    let told = model.asked(1).await.body.to_string();
    assert!(told.contains(&long));
}

async fn files_come_with_a_message(door: Door) {
    let model = Model::start(Dialect::Anthropic, [vec![text("I see.")]]).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    // The smallest PNG there is, and some large file.
    let png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    std::fs::write(server.workspace().join("notes.txt"), "in the workspace").expect("a file");
    std::fs::write(server.workspace().join("large.bin"), vec![7; 100_000]).expect("a file");
    let wish = json!({
        "parts": [
            {"type": "text", "text": "Look at these."},
            {"type": "binary", "base64_data": png},
            {"type": "binary", "path": "notes.txt"},
            {"type": "binary", "path": "large.bin", "mime_type": "application/x-large"},
        ],
        "attachments": [
            {"path": "said.md", "content": "# Said"},
            {"path": "pixel.png", "content": png, "size": 70},
            {"path": "notes.txt"},
        ],
    });
    client.send_message(wish).await.expect("a turn").until("turn_completed").await;
    let message = client.list_messages(json!({"role": "user"})).await.expect("a list").body["messages"][0].clone();
    let base64 = |text: &str| {
        use base64::{Engine, engine::general_purpose::STANDARD};
        STANDARD.encode(text)
    };
    let notes = json!({"type": "binary", "path": "notes.txt", "mime_type": "text/plain",
        "base64_data": base64("in the workspace"), "size": 16});
    let expected = json!([
        {"type": "text", "text": "Look at these."},
        {"type": "binary", "mime_type": "image/png", "base64_data": png, "size": 70},
        notes,
        {"type": "binary", "path": "large.bin", "mime_type": "application/x-large", "truncated": true, "size": 100_000},
        {"type": "binary", "path": "said.md", "mime_type": "text/markdown", "base64_data": base64("# Said"), "size": 6},
        {"type": "binary", "path": "pixel.png", "mime_type": "image/png", "base64_data": png, "size": 70},
        notes,
    ]);
    assert_eq!(message["parts"], expected);
    let whole = client.get_message_part(&message["id"], 3).await.expect("a part");
    assert_eq!(whole, (vec![7; 100_000], "application/x-large".to_owned()));
    let told = format!("{:?}", model.asked(0).await.conversation());
    assert_eq!(told.matches("Image { mime_type: \"image/png\" }").count(), 2, "{told}");
    assert!(told.contains("in the workspace") && told.contains("# Said"), "{told}");
    refused_files(&client).await;
}

async fn refused_files(client: &Client) {
    let text_part = json!({"type": "text", "text": "Look."});
    for (part, field, code) in [
        (json!({"type": "binary"}), "parts[1]", "invalid_argument"),
        (json!({"type": "binary", "path": "x", "base64_data": "eA=="}), "parts[1]", "invalid_argument"),
        (json!({"type": "binary", "base64_data": "no base64"}), "parts[1].base64_data", "invalid_argument"),
        (
            json!({"type": "binary", "base64_data": "eA==", "mime_type": "nonsense"}),
            "parts[1].mime_type",
            "invalid_argument",
        ),
        (json!({"type": "text", "text": ""}), "parts[1].text", "invalid_argument"),
        (json!({"type": "binary", "path": "missing.txt"}), "", "not_found"),
        (json!({"type": "binary", "path": "../secret"}), "parts[1].path", "permission_denied"),
        (json!({"type": "binary", "path": "/etc/passwd"}), "parts[1].path", "permission_denied"),
    ] {
        let wish = json!({"parts": [text_part, part]});
        let refusal = client.send_message(wish.clone()).await.err().expect("a refusal");
        assert_eq!(refusal.code, code, "{wish} {refusal:?}");
        assert_eq!(refusal.fields.first().map_or("", String::as_str), field, "{wish}");
    }
    for (attachment, field) in [
        (json!({"path": "", "content": "x"}), "attachments[0].path"),
        (json!({"path": "x.png", "content": "no base64"}), "attachments[0].content"),
        (json!({"path": "x.txt", "content": "four", "size": 5}), "attachments[0].size"),
        (json!({"path": "x.txt", "content": "four", "size": -1}), "attachments[0].size"),
    ] {
        let wish = json!({"parts": [text_part], "attachments": [attachment]});
        let refusal = client.send_message(wish.clone()).await.err().expect("a refusal");
        assert_eq!((refusal.code.as_str(), refusal.fields), ("invalid_argument", vec![field.to_owned()]), "{wish}");
    }
}

async fn clearing_takes_all_messages(door: Door) {
    let model = Model::start(Dialect::OpenAi, [vec![bash("echo marker-of-the-output")], vec![text("Done.")]]).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);
    server.rest.ask("Say the marker-of-the-question please, and more words so that it is in no title at all").await;
    let before = server.rest.log().await;
    assert!(server.data_holds("marker-of-the-output"));
    let reply = client.clear_messages().await.expect("cleared");
    let seq = before.len() as u64 + 1;
    assert!(reply.cursor.as_ref().is_some_and(|cursor| cursor.ends_with(&format!("-{seq}"))), "{reply:?}");
    assert_eq!(reply.body, Value::Null);
    assert!(!server.data_holds("marker-of-the-output"), "the content is erased");
    let list = client.list_messages(json!({})).await.expect("a list").body;
    assert_eq!((&list["messages"], &list["as_of_seq"]), (&json!([]), &json!(seq)));
    assert_eq!(client.get_session().await.expect("a session").body["message_count"], 0);
    client.clear_messages().await.expect("once more");

    let gate = Gate::new();
    model.then(vec![text("I "), Step::Wait(gate.clone()), text("am.")]);
    let mut turn = server.rest.say(&json!({"text": "Talk."})).await;
    turn.until("content_delta").await;
    let refusal = client.clear_messages().await.expect_err("a refusal");
    assert_eq!((refusal.code.as_str(), refusal.retryable), ("agent_busy", true));
    gate.open();
    turn.until("turn_completed").await;
    client.clear_messages().await.expect("cleared");
}

async fn whole_messages_are_followed(door: Door) {
    let (model, server) = with_messages(1).await;
    let client = server.through(door);
    let mut all = client.stream_messages(json!({"after": "0"})).await.expect("a stream");
    let mut live = client.stream_messages(json!({})).await.expect("a stream");
    model.then(vec![call("ls", &json!({}))]);
    model.then(vec![text("Done.")]);
    server.rest.ask("List.").await;
    let log = server.rest.log().await;
    client.reset_session(json!({})).await.expect("a session");
    let wanted = |name: &str| ["message_created", "message_updated"].contains(&name);
    let expected: Vec<Value> = log.iter().filter(|event| wanted(&event.name)).map(|event| event.json.clone()).collect();
    let plain =
        |events: Vec<crate::support::Event>| -> Vec<Value> { events.into_iter().map(|event| event.json).collect() };
    // The published messages of gRPC carry the message alone.
    let strip = |json: &Value| {
        let mut json = json.clone();
        if door != Door::Rest {
            let fields = json.as_object_mut().expect("an object");
            fields.remove("at");
            fields.remove("turn_id");
        }
        json
    };
    let expected: Vec<Value> = expected.iter().map(strip).collect();
    let mut found = plain(all.until("session_reset").await);
    found.pop();
    assert_eq!(found, expected);
    let mut found = plain(live.until("session_reset").await);
    found.pop();
    assert_eq!(found, expected[expected.len() - found.len()..]);
    assert!(found.len() > 4);
}
