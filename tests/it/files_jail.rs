//! Bad paths through every door: each has its code and names the field, and nothing outside is read, written or named.

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::json;

use crate::{
    support::{Door, Server, Setup},
    through_every_door,
};

through_every_door! {
    paths_that_are_refused;
    links_that_lead_out;
}

const SECRET: &str = "what nobody inside may see";

/// A server beside whose workspace there is something to be found.
fn guarded() -> Server {
    let setup = Setup::new();
    fs::create_dir(setup.folder("outside")).expect("a folder");
    fs::write(setup.folder("outside/secret.txt"), SECRET).expect("a file");
    // A name that begins like the workspace's.
    fs::create_dir(setup.folder("workspace-x")).expect("a folder");
    fs::write(setup.folder("workspace-x/secret.txt"), SECRET).expect("a file");
    setup.start()
}

/// All that is outside is as it was.
fn intact(server: &Server) {
    for folder in ["outside", "workspace-x"] {
        let folder = server.setup().folder(folder);
        let names: Vec<_> =
            fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
        assert_eq!(names, ["secret.txt"]);
        assert_eq!(fs::read_to_string(folder.join("secret.txt")).expect("a file"), SECRET);
    }
}

/// The code and the field that each verb refuses a path with.
async fn refusals(server: &Server, door: Door, path: &str) -> Vec<(String, String)> {
    let client = server.through(door);
    let write = json!({"content": "bad", "create_dirs": true});
    let refused = [
        client.list_files(json!({"path": path, "recursive": true})).await.map(|_| ()),
        client.read_file(path, json!({})).await.map(|_| ()),
        client.write_file(path, write).await.map(|_| ()),
        client.delete_file(path, json!({"recursive": true})).await,
    ];
    let told = refused.into_iter().map(|refused| {
        let refused = refused.err().unwrap_or_else(|| panic!("{path:?} is taken"));
        let names_more = refused.detail.contains("opencode-it-") && !path.contains("opencode-it-");
        assert!(!refused.detail.contains(SECRET) && !names_more, "{}", refused.detail);
        (refused.code, refused.fields.first().cloned().unwrap_or_default())
    });
    told.collect()
}

async fn paths_that_are_refused(door: Door) {
    let server = guarded();
    let long = "x/".repeat(2500) + "x";
    let name = "n".repeat(300);
    let root = server.workspace().display().to_string();
    let (client, version) = (server.through(door), server.version().await);
    for (path, code) in [
        ("../outside/secret.txt", "permission_denied"),
        ("a/../../outside/secret.txt", "permission_denied"),
        ("a/..", "permission_denied"),
        ("../workspace/README.md", "permission_denied"),
        ("../workspace-x/secret.txt", "permission_denied"),
        ("/etc/passwd", "permission_denied"),
        ("//etc/passwd", "permission_denied"),
        (root.as_str(), "permission_denied"),
        ("./README.md", "invalid_argument"),
        ("a//b", "invalid_argument"),
        ("a/", "invalid_argument"),
        ("README.md\0", "invalid_argument"),
        ("\0", "invalid_argument"),
        (long.as_str(), "invalid_argument"),
        (name.as_str(), "invalid_argument"),
    ] {
        for (number, refused) in refusals(&server, door, path).await.into_iter().enumerate() {
            assert_eq!(refused, (code.to_owned(), "path".to_owned()), "{path:.60?}, verb {number}");
        }
        // Versions know names that no file can have any more: only what is no path at all is refused there.
        let of_versions = [
            client.get_file_changes(json!({"path": path})).await,
            client.revert_files(json!({"version": version, "paths": ["README.md", path]})).await,
        ];
        for refused in of_versions.into_iter().filter(|_| path != name) {
            let refused = refused.err().unwrap_or_else(|| panic!("{path:.60?} is taken"));
            assert_eq!((refused.code.as_str(), refused.fields), (code, vec!["path".to_owned()]), "{path:.60?}");
        }
    }
    // Escapes of escapes are names like any other.
    for path in ["%2e%2e/outside/secret.txt", "..%2foutside", "..\\outside\\secret.txt", "...", "~/x"] {
        assert_eq!(client.read_file(path, json!({})).await.expect_err("there is none").code, "not_found", "{path}");
    }
    if door != Door::Rest {
        let refused = client.read_file("", json!({})).await.expect_err("no path");
        assert_eq!((refused.code.as_str(), refused.fields), ("invalid_argument", vec!["path".to_owned()]));
    }
    intact(&server);
}

async fn links_that_lead_out(door: Door) {
    let server = guarded();
    let at = |name: &str| server.workspace().join(name);
    fs::create_dir_all(at("a/b")).expect("folders");
    for (target, link) in [
        (Path::new("../outside"), "out"),
        (Path::new("../../outside/secret.txt"), "a/file"),
        (&server.setup().folder("outside"), "absolute"),
        // Inside, and yet absolute.
        (&at("a"), "inside"),
        (Path::new("out"), "twice"),
        (Path::new("/proc/self/root"), "magic"),
        (Path::new("a/../../outside"), "round"),
    ] {
        symlink(target, at(link)).expect("a link");
    }
    let client = server.through(door);
    let denied = ("permission_denied".to_owned(), "path".to_owned());
    for path in
        ["out/secret.txt", "absolute/secret.txt", "twice/secret.txt", "inside/b", "magic/etc/passwd", "round/new"]
    {
        assert_eq!(refusals(&server, door, path).await, vec![denied.clone(); 4], "{path}");
    }
    for path in ["out", "a/file", "absolute", "twice"] {
        let write = json!({"content": "bad"});
        assert_eq!(client.read_file(path, json!({})).await.expect_err("outside").code, "permission_denied", "{path}");
        assert_eq!(client.write_file(path, write).await.expect_err("outside").code, "permission_denied", "{path}");
        assert_eq!(client.list_files(json!({"path": path})).await.expect_err("outside").code, "permission_denied");
    }
    let names = client.names(json!({"recursive": true, "include_ignored": true})).await;
    assert!(names.contains(&"out".to_owned()) && !names.iter().any(|name| name.contains("secret")), "{names:?}");
    symlink("circle", at("circle")).expect("a link");
    assert_eq!(client.read_file("circle", json!({})).await.expect_err("a circle").code, "invalid_argument");
    // The links themselves are the workspace's own.
    for path in ["out", "a/file", "absolute", "twice", "magic", "circle"] {
        client
            .delete_file(path, json!({"recursive": true}))
            .await
            .unwrap_or_else(|refused| panic!("{path}: {refused:?}"));
    }
    intact(&server);
}
