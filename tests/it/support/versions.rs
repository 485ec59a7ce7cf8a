//! The operations of versions through any door.

use serde_json::{Value, json};

use super::{
    Answer, Client, Door, Server,
    doors::{Outcome, Refusal, Reply, base64, page, refusal, text, with_query},
    until,
};

impl Client {
    /// `query` has `limit`, `offset`, `cursor`.
    pub async fn list_versions(&self, query: Value) -> Outcome {
        let wish = json!({"pagination": page(&query)});
        let mut reply =
            self.call(("GET", &with_query("/files/versions", &query), None), ("ListVersions", wish)).await?;
        for version in reply.body["versions"].as_array_mut().expect("a list") {
            without_empty(version, "left_out");
        }
        Ok(reply)
    }

    /// `query` as REST has it, and `if_none_match`. The answer has `etag`, and `not_modified` where it is so.
    pub async fn get_file_changes(&self, query: Value) -> Outcome {
        if self.door != Door::Rest {
            let mut reply = self.unary("GetFileChanges", changes_wish(&query)).await?;
            let fields = reply.body.as_object_mut().expect("an answer");
            fields.remove("patch");
            if fields["not_modified"] == false {
                fields.remove("not_modified");
                fields["changes"].as_array_mut().expect("a list").iter_mut().for_each(one_change);
            } else {
                let etag = fields["etag"].clone();
                reply.body = json!({"etag": etag, "not_modified": true});
            }
            return Ok(reply);
        }
        let answer = self.changes(query, "application/json").await;
        let etag = answer.header("etag").map(|tag| tag.trim_matches('"').to_owned());
        let cursor = answer.header("event-cursor").map(str::to_owned);
        match answer.status {
            200 => {
                let mut body = answer.ok();
                body["etag"] = json!(etag);
                body["changes"].as_array_mut().expect("a list").iter_mut().for_each(one_change);
                Ok(Reply { body, cursor })
            }
            304 => {
                assert!(answer.body.is_empty());
                Ok(Reply { body: json!({"etag": etag, "not_modified": true}), cursor })
            }
            _ => Err(refusal(answer)),
        }
    }

    /// The changes as one patch.
    pub async fn get_patch(&self, query: Value) -> Result<Vec<u8>, Refusal> {
        if self.door != Door::Rest {
            let mut wish = changes_wish(&query);
            wish["patch"] = true.into();
            return Ok(base64(&self.unary("GetFileChanges", wish).await?.body["patch"]));
        }
        let answer = self.changes(query, "text/x-diff").await;
        if answer.status != 200 {
            return Err(refusal(answer));
        }
        assert_eq!(answer.header("content-type"), Some("text/x-diff"));
        Ok(answer.body)
    }

    pub async fn revert_files(&self, wish: Value) -> Outcome {
        let mut reply = self.call(("POST", "/files/revert", Some(wish.clone())), ("RevertFiles", wish)).await?;
        if reply.body["truncated"] == false {
            without(&mut reply.body, "truncated");
        }
        Ok(reply)
    }

    /// All changes from there until now.
    pub async fn changes_since(&self, version: &str) -> Vec<Value> {
        let reply = self.get_file_changes(json!({"since_version": version, "limit": 200})).await;
        let body = reply.expect("changes").body;
        assert_eq!(body["pagination"]["has_more"], false);
        body["changes"].as_array().expect("a list").clone()
    }

    async fn changes(&self, mut query: Value, accept: &str) -> Answer {
        let tag = query.as_object_mut().and_then(|fields| fields.remove("if_none_match"));
        let request = self.rest.request("GET", &with_query("/files/changes", &query)).header("accept", accept);
        let request = match tag {
            Some(tag) => request.header("if-none-match", text(&tag)),
            None => request,
        };
        Answer::of(request).await
    }
}

impl Server {
    /// The newest version, when the baseline is there; what is asked for now is seen from here on.
    pub async fn version(&self) -> String {
        text(&self.rest.read("/files/changes").await["current_version"]).to_owned()
    }

    /// The newest version whole, when the workspace has been looked at.
    pub async fn newest_version(&self) -> Value {
        self.version().await;
        self.rest.read("/files/versions?limit=1").await["versions"][0].clone()
    }

    /// The changes from there until now.
    pub async fn changes_since(&self, version: &str) -> Vec<Value> {
        self.through(Door::Rest).changes_since(version).await
    }

    /// The paths and types of the changes from there until now.
    pub async fn changed_since(&self, version: &str) -> Vec<(String, String)> {
        let name = |change: &Value| (text(&change["path"]).to_owned(), text(&change["type"]).to_owned());
        self.changes_since(version).await.iter().map(name).collect()
    }

    /// Waits until a version of that cause is there, and answers it.
    pub async fn version_by(&self, cause: &str) -> Value {
        until("a version", async || {
            let list = self.rest.read("/files/versions?limit=200").await;
            let versions = list["versions"].as_array().expect("a list");
            versions.iter().find(|version| version["cause"] == cause).cloned()
        })
        .await
    }
}

fn changes_wish(query: &Value) -> Value {
    let mut wish = query.clone();
    for name in ["limit", "offset", "cursor"] {
        if let Some(fields) = wish.as_object_mut() {
            fields.remove(name);
        }
    }
    wish["pagination"] = page(query);
    wish
}

/// Contents are empty there where they are absent here.
fn one_change(change: &mut Value) {
    for name in ["old_content", "new_content", "diff"] {
        without_empty(change, name);
    }
    if change["truncated"] == false {
        without(change, "truncated");
    }
}

fn without_empty(value: &mut Value, name: &str) {
    if value[name] == "" || value[name] == json!([]) {
        without(value, name);
    }
}

fn without(value: &mut Value, name: &str) {
    value.as_object_mut().expect("an object").remove(name);
}
