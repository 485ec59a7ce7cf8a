//! The limits of one look: what it did not get to is unknown, it stays as it is, and it is known again as soon as a look
//! gets to it.

use std::{fs, path::Path};

use serde_json::json;

use crate::{
    baselines::{plain, put},
    support::{Door, Server, Setup, Value},
    through_every_door,
};

through_every_door! {
    what_is_over_the_bytes_of_a_look_is_said_and_left_alone;
    pages_of_versions_that_lack_much_end_early;
}

/// A message of gRPC has 4 MiB at most where nobody says otherwise.
async fn pages_of_versions_that_lack_much_end_early(door: Door) {
    let setup = plain().env("OPENCODE_VERSION_BYTES", 2000);
    let folder = [&"a".repeat(250); 12].map(String::as_str).join("/");
    for number in 0..100 {
        put(&setup.workspace(), &format!("{folder}/{number}.txt"), "x".repeat(5000));
    }
    let server = setup.start();
    let client = server.through(door);
    let writes = 20;
    for number in 0..writes {
        client.write_file("b.txt", json!({"content": number.to_string()})).await.expect("written");
    }
    let (mut found, mut wish, mut pages) = (0, json!({"limit": 200}), 0);
    loop {
        let page = client.list_versions(wish.clone()).await.expect("versions").body;
        assert!(page.to_string().len() < 3 * 1024 * 1024);
        found += page["versions"].as_array().expect("a list").len();
        pages += 1;
        match page["pagination"].get("next_cursor") {
            Some(next) if page["pagination"]["has_more"] == true => wish["cursor"] = next.clone(),
            _ => break,
        }
    }
    assert!(pages > 1 && found >= writes, "{found} versions in {pages} pages");
}

/// Whether anything at or below that path is told as changed.
fn tells_of(body: &Value, path: &str) -> bool {
    let changes = body["changes"].as_array().expect("a list");
    changes.iter().any(|change| change["path"].as_str().is_some_and(|found| Path::new(found).starts_with(path)))
}

fn left_out(body: &Value, path: &str, reason: &str) -> bool {
    let list = body["left_out"].as_array().expect("a list");
    list.contains(&json!({"path": path, "reason": reason}))
}

async fn what_is_over_the_bytes_of_a_look_is_said_and_left_alone(door: Door) {
    let setup = plain().env("OPENCODE_VERSION_BYTES", 2000);
    let workspace = setup.workspace();
    put(&workspace, "grows.txt", "small\n");
    put(&workspace, "never.txt", "x".repeat(5000));
    put(&workspace, "other.txt", "1\n");
    let server = setup.start();
    let client = server.through(door);
    let first = client.get_file_changes(json!({})).await.expect("changes").body;
    let first = first["current_version"].as_str().expect("a version").to_owned();
    // Known in the first version, over the limit from now on; and one that no version has ever known.
    put(&workspace, "grows.txt", "y".repeat(5000));
    put(&workspace, "other.txt", "2\n");
    let since = json!({"since_version": first});
    let partial = client.get_file_changes(since.clone()).await.expect("changes").body;
    let lacks = json!([{"path": "grows.txt", "reason": "bytes"}, {"path": "never.txt", "reason": "bytes"}]);
    assert_eq!((&partial["complete"], &partial["left_out"]), (&json!(false), &lacks), "each is named once");
    assert_eq!((partial["changes"].as_array().map(Vec::len), tells_of(&partial, "other.txt")), (Some(1), true));
    let newest = client.list_versions(json!({"limit": 1})).await.expect("versions").body["versions"][0].clone();
    assert_eq!((&newest["partial"], &newest["left_out"]), (&json!(true), &lacks));
    let second = newest["id"].as_str().expect("an id").to_owned();

    // The tag is of this answer, as long as it is the same.
    let mut again = since.clone();
    again["if_none_match"] = partial["etag"].clone();
    let same = client.get_file_changes(again.clone()).await.expect("changes").body;
    assert_eq!(same, json!({"etag": partial["etag"], "not_modified": true}));

    let refused = client.get_patch(since.clone()).await.expect_err("it lacks something");
    assert_eq!(refused.code, "patch_incomplete");
    assert!(refused.detail.contains("grows.txt (bytes), never.txt (bytes)"), "{refused:?}");
    let patch = client.get_patch(json!({"since_version": first, "partial": true})).await.expect("a patch");
    let patch = String::from_utf8(patch).expect("UTF-8");
    assert!(patch.contains("b/other.txt") && !patch.contains("grows") && !patch.contains("never"), "{patch}");

    let done = client.revert_files(json!({"version": first})).await.expect("an answer").body;
    assert_eq!(done["changes"], json!([{"path": "other.txt", "type": "modified"}]));
    assert_eq!(done["skipped"], lacks, "each is named once");
    assert_eq!(fs::read(workspace.join("grows.txt")).expect("a file").len(), 5000);
    assert_eq!(fs::read(workspace.join("never.txt")).expect("a file").len(), 5000);

    // Small enough again: what the first version knew is compared with it, what it did not know is not.
    put(&workspace, "grows.txt", "small again\n");
    put(&workspace, "never.txt", "small\n");
    let body = client.get_file_changes(again).await.expect("changes").body;
    assert_ne!(body["etag"], partial["etag"]);
    assert_eq!((body["changes"].as_array().map(Vec::len), tells_of(&body, "grows.txt")), (Some(1), true), "{body}");
    assert_eq!(body["left_out"], json!([{"path": "never.txt", "reason": "bytes"}]), "the first version lacks it");
    let newest = client.list_versions(json!({"limit": 1})).await.expect("versions").body["versions"][0].clone();
    assert_eq!((&newest["partial"], newest.get("left_out")), (&json!(false), None));
    let body = client.get_file_changes(json!({"since_version": second})).await.expect("changes").body;
    assert!(!tells_of(&body, "grows.txt") && !tells_of(&body, "never.txt"), "{body}");
    // From a version that lacks nothing everything is told again.
    let third = newest["id"].clone();
    fs::remove_file(workspace.join("never.txt")).expect("a file");
    let body = client.get_file_changes(json!({"since_version": third})).await.expect("changes").body;
    assert_eq!((&body["complete"], &body["changes"][0]["type"]), (&json!(true), &json!("deleted")));
    client.get_patch(json!({"since_version": third})).await.expect("a whole patch");
}

/// Files that take no room and more than a second to be read, in the folder that is looked at first.
fn slow(workspace: &Path) {
    for number in 0..800 {
        let file = fs::File::create(workspace.join(format!("slow-{number:03}"))).expect("a file");
        file.set_len(10 * 1024 * 1024).expect("a size");
    }
}

fn no_more_slow(workspace: &Path) {
    for number in 0..800 {
        fs::remove_file(workspace.join(format!("slow-{number:03}"))).expect("a file");
    }
}

fn a_second() -> Setup {
    let setup = plain().env("OPENCODE_VERSION_SECONDS", 1).env("OPENCODE_VERSION_BYTES", 1_u64 << 40);
    put(&setup.workspace(), "deep/a.txt", "1\n");
    put(&setup.workspace(), "deep/er/b.txt", "1\n");
    setup
}

async fn changes(server: &Server, since: &str) -> Value {
    server.rest.read(&format!("/files/changes?limit=200&since_version={since}")).await
}

/// Its hash takes all the time there is, each time: that is no reason to know nothing of the others.
#[tokio::test]
async fn a_file_that_takes_all_the_time_leaves_the_others_theirs() {
    let setup = a_second();
    let workspace = setup.workspace();
    let huge = put(&workspace, "huge.bin", "");
    fs::File::options().write(true).open(&huge).and_then(|huge| huge.set_len(1 << 36)).expect("a size");
    let server = setup.start();
    let first = server.newest_version().await;
    let lacks = json!([{"path": "huge.bin", "reason": "time"}]);
    assert_eq!(first["left_out"], lacks);
    put(&workspace, "deep/er/b.txt", "2\n");
    let first = first["id"].as_str().expect("an id");
    let body = changes(&server, first).await;
    assert_eq!((&body["left_out"], body["changes"].as_array().map(Vec::len)), (&lacks, Some(1)));
    assert!(tells_of(&body, "deep/er/b.txt"), "{body}");
    let done = server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    assert_eq!(done["changes"], json!([{"path": "deep/er/b.txt", "type": "modified"}]));
    assert_eq!((&done["skipped"], huge.exists()), (&lacks, true));
}

#[tokio::test]
async fn a_first_version_without_time_is_completed_by_the_next_looks() {
    let setup = a_second();
    let workspace = setup.workspace();
    slow(&workspace);
    let server = setup.start();
    let first = server.version_by("baseline").await;
    assert_eq!(first["partial"], true);
    assert!(left_out(&first, "deep", "time"), "{first}");
    let first = first["id"].as_str().expect("an id").to_owned();
    // Nobody knows what was there: nothing that is now there was created, and nothing that is not was deleted.
    fs::remove_file(workspace.join("deep/a.txt")).expect("a file");
    put(&workspace, "deep/new.txt", "new\n");
    let body = changes(&server, &first).await;
    assert_eq!(body["complete"], false);
    assert!(left_out(&body, "deep", "time") && !tells_of(&body, "deep"), "{}", body["left_out"]);
    let refused = server.through(Door::Rest).get_patch(json!({"since_version": first})).await;
    let refused = refused.expect_err("it lacks something");
    assert!(refused.code == "patch_incomplete" && refused.detail.contains("deep (time)"), "{refused:?}");
    let done = server.rest.post("/files/revert", &json!({"version": first, "paths": ["deep"]})).await.ok();
    assert_eq!((&done["changes"], &done["skipped"]), (&json!([]), &json!([{"path": "deep", "reason": "time"}])));
    assert!(workspace.join("deep/new.txt").exists() && !workspace.join("deep/a.txt").exists());

    no_more_slow(&workspace);
    let newest = server.newest_version().await;
    assert_eq!((&newest["partial"], newest.get("left_out")), (&json!(false), None));
    let body = changes(&server, &first).await;
    assert!(!tells_of(&body, "deep") && body["complete"] == false, "the first version says nothing of it for ever");
    put(&workspace, "deep/er/b.txt", "2\n");
    let body = changes(&server, newest["id"].as_str().expect("an id")).await;
    assert_eq!((&body["complete"], body["changes"].as_array().map(Vec::len)), (&json!(true), Some(1)));
    assert!(tells_of(&body, "deep/er/b.txt"));
}

#[tokio::test]
async fn a_later_look_without_time_forgets_nothing_for_good() {
    let setup = a_second();
    let workspace = setup.workspace();
    let server = setup.start();
    let first = server.version().await;
    slow(&workspace);
    put(&workspace, "deep/a.txt", "2\n");
    let partial = changes(&server, &first).await;
    assert_eq!(partial["complete"], false);
    assert!(left_out(&partial, "deep", "time"), "{}", partial["left_out"]);
    assert!(!tells_of(&partial, "deep"), "what was there before is not gone");
    // What one look has read the next one need not read again.
    let count = |body: &Value| body["left_out"].as_array().map(Vec::len);
    assert!(count(&changes(&server, &first).await) < count(&partial), "each look gets further");
    let second = server.rest.read("/files/versions?limit=1").await["versions"][0].clone();
    assert_eq!(second["partial"], true);
    let done = server.rest.post("/files/revert", &json!({"version": first, "paths": ["deep"]})).await.ok();
    assert_eq!((&done["changes"], &done["skipped"]), (&json!([]), &json!([{"path": "deep", "reason": "time"}])));
    assert_eq!(fs::read(workspace.join("deep/a.txt")).expect("a file"), b"2\n");

    no_more_slow(&workspace);
    assert_eq!(server.changed_since(&first).await, [("deep/a.txt".into(), "modified".into())]);
    let body = changes(&server, second["id"].as_str().expect("an id")).await;
    assert!(!tells_of(&body, "deep"), "{}", body["changes"]);
    let done = server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    assert_eq!(done["changes"], json!([{"path": "deep/a.txt", "type": "modified"}]));
    assert_eq!(fs::read(workspace.join("deep/a.txt")).expect("a file"), b"1\n");
}
