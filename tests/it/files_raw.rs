//! Files as bytes under `/raw`: pieces, conditions, names that are not UTF-8, uploads and how they fail.

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use crate::support::{Answer, Rest, Server, Setup, until};

fn put(server: &Server, name: &str, content: impl AsRef<[u8]>) {
    let path = server.workspace().join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, content).expect("a file");
}

async fn send(rest: &Rest, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
    let mut request = rest.request(method, path).body(body.into());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request).await
}

async fn get(rest: &Rest, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(rest, "GET", path, headers, "").await
}

/// All names in a folder but `.git`.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> =
        entries.map(|name| name.to_string_lossy().into_owned()).filter(|name| name != ".git").collect();
    names.sort();
    names
}

/// Writes a request by hand, and answers what comes until the connection ends or is silent.
fn by_hand(server: &Server, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.rest.base.trim_start_matches("http://")).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(request).expect("a request");
    stream
}

#[tokio::test]
async fn bytes_come_as_they_are_with_all_that_is_to_know() {
    let server = Setup::new().start();
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    put(&server, "dir/data.bin", &content);
    put(&server, "page.html", "<script>alert(1)</script>");
    put(&server, "ä \"b\".txt", "text");
    put(&server, "empty", "");
    let rest = &server.rest;
    let whole = get(rest, "/raw/dir/data.bin", &[("accept-encoding", "gzip")]).await;
    assert_eq!((whole.status, whole.body.len()), (200, content.len()));
    assert!(whole.body == content);
    let etag = whole.header("etag").expect("a tag").to_owned();
    let read = rest.read("/files/dir/data.bin?length=1").await;
    assert_eq!(etag, format!("\"{}\"", read["file_info"]["etag"].as_str().expect("a tag")), "one tag for all doors");
    for (name, value) in [
        ("content-length", "3000000"),
        ("content-type", "application/octet-stream"),
        ("accept-ranges", "bytes"),
        ("cache-control", "no-cache"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("content-disposition", "attachment; filename=\"data.bin\""),
    ] {
        assert_eq!(whole.header(name), Some(value), "{name}");
    }
    assert!(whole.header("last-modified").is_some() && whole.header("content-encoding").is_none());
    let page = get(rest, "/raw/page.html", &[]).await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-disposition").is_some_and(|how| how.starts_with("attachment;")));
    let text = get(rest, "/raw/%C3%A4%20%22b%22.txt", &[]).await;
    let named = "inline; filename=\"_ _b_.txt\"; filename*=UTF-8''%C3%A4%20%22b%22.txt";
    assert_eq!(text.header("content-disposition"), Some(named));
    let empty = get(rest, "/raw/empty", &[]).await;
    assert_eq!((empty.status, empty.header("content-length"), empty.body.len()), (200, Some("0"), 0));

    let head = send(rest, "HEAD", "/raw/dir/data.bin", &[], "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["content-length", "etag", "content-type", "last-modified", "content-disposition"] {
        assert_eq!(head.header(name), whole.header(name), "{name}");
    }
    // A piece, and what HEAD says of it, is as harmless as the whole.
    let piece = get(rest, "/raw/page.html", &[("range", "bytes=0-7")]).await;
    assert_eq!((piece.status, piece.text().as_str()), (206, "<script>"));
    let head = send(rest, "HEAD", "/raw/page.html", &[("range", "bytes=0-7")], "").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("25")));
    for answer in [&piece, &head] {
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("content-security-policy"), Some("sandbox; default-src 'none'"));
        assert_eq!(answer.header("content-disposition"), Some("attachment; filename=\"page.html\""));
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    }
    let known = send(rest, "HEAD", "/raw/dir/data.bin", &[("if-none-match", &etag)], "").await;
    assert_eq!((known.status, known.header("etag")), (304, Some(etag.as_str())));
    assert_eq!(send(rest, "HEAD", "/raw/dir/data.bin", &[("if-match", "\"a\"")], "").await.status, 412);
    assert_eq!(send(rest, "HEAD", "/raw/gone", &[], "").await.status, 404);
    get(rest, "/raw/dir", &[]).await.problem(400, "invalid_argument");
}

#[tokio::test]
async fn pieces_as_http_has_them() {
    let server = Setup::new().start();
    put(&server, "f", "0123456789");
    let rest = &server.rest;
    let etag = get(rest, "/raw/f", &[]).await.header("etag").expect("a tag").to_owned();
    for (range, expected, span) in [
        ("bytes=0-3", "0123", "bytes 0-3/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=9-4000", "9", "bytes 9-9/10"),
        ("bytes=-4000", "0123456789", "bytes 0-9/10"),
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=9-99999999999999999999999", "9", "bytes 9-9/10"),
    ] {
        let piece = get(rest, "/raw/f", &[("range", range)]).await;
        assert_eq!((piece.status, piece.text().as_str(), piece.header("content-range")), (206, expected, Some(span)));
        assert_eq!(piece.header("etag"), Some(etag.as_str()));
        let meant = get(rest, "/raw/f", &[("range", range), ("if-range", &etag)]).await;
        assert_eq!(meant.status, 206);
        let other = get(rest, "/raw/f", &[("range", range), ("if-range", "\"other\"")]).await;
        assert_eq!((other.status, other.text().as_str()), (200, "0123456789"));
    }
    for range in ["bytes=0-1,3-4", "bytes=4-2", "lines=1-2", "bytes=x", "bytes=-"] {
        assert_eq!(get(rest, "/raw/f", &[("range", range)]).await.status, 200, "{range}");
    }
    for range in ["bytes=10-", "bytes=10-20", "bytes=4000-", "bytes=-0"] {
        let nowhere = get(rest, "/raw/f", &[("range", range)]).await;
        assert_eq!(nowhere.header("content-range"), Some("bytes */10"), "{range}");
        nowhere.problem(416, "range_not_satisfiable");
    }
    // Of nothing there is no piece; the last bytes of it are all of it.
    put(&server, "empty", "");
    let nowhere = get(rest, "/raw/empty", &[("range", "bytes=0-")]).await;
    assert_eq!((nowhere.status, nowhere.header("content-range")), (416, Some("bytes */0")));
    assert_eq!(get(rest, "/raw/empty", &[("range", "bytes=-5")]).await.status, 200);
    // A date names a state only where a later one could not have the same.
    let date = async || get(rest, "/raw/f", &[]).await.header("last-modified").expect("a date").to_owned();
    let meant = async |date: &str| get(rest, "/raw/f", &[("range", "bytes=0-3"), ("if-range", date)]).await.status;
    let file = fs::File::open(server.workspace().join("f")).expect("a file");
    file.set_modified(SystemTime::now() + Duration::from_secs(3600)).expect("a time");
    assert_eq!(meant(&date().await).await, 200);
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("a time");
    assert_eq!((meant(&date().await).await, meant("Sun, 06 Nov 1994 08:49:37 GMT").await), (206, 200));
}

#[tokio::test]
async fn conditions_as_http_has_them() {
    let server = Setup::new().start();
    put(&server, "f", "content");
    let rest = &server.rest;
    let first = get(rest, "/raw/f", &[]).await;
    let (etag, modified) =
        (first.header("etag").expect("a tag").to_owned(), first.header("last-modified").expect("a date").to_owned());
    let (past, future) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Fri, 01 Jan 2100 00:00:00 GMT");
    let weak = format!("W/{etag}");
    for (headers, status) in [
        (vec![("if-none-match", etag.as_str())], 304),
        (vec![("if-none-match", weak.as_str())], 304),
        (vec![("if-none-match", "*")], 304),
        (vec![("if-none-match", "\"a\"")], 200),
        (vec![("if-modified-since", modified.as_str())], 304),
        (vec![("if-modified-since", past)], 200),
        (vec![("if-modified-since", "yesterday")], 200),
        (vec![("if-none-match", "\"a\""), ("if-modified-since", future)], 200),
        (vec![("if-match", etag.as_str())], 200),
        (vec![("if-match", weak.as_str())], 412),
        (vec![("if-match", "\"a\""), ("if-none-match", etag.as_str())], 412),
        (vec![("if-unmodified-since", past)], 412),
        (vec![("if-unmodified-since", modified.as_str())], 200),
        (vec![("if-match", "*"), ("if-unmodified-since", past)], 200),
        (vec![("if-match", "\"open")], 400),
    ] {
        let answer = get(rest, "/raw/f", &headers).await;
        assert_eq!(answer.status, status, "{headers:?}");
        if status == 304 {
            assert_eq!((answer.header("etag"), answer.body.len()), (Some(etag.as_str()), 0));
        }
    }
    for (method, path) in [("PUT", "/raw/f"), ("DELETE", "/raw/f"), ("DELETE", "/files/f")] {
        send(rest, method, path, &[("if-match", "\"a\"")], "new").await.problem(412, "precondition_failed");
        send(rest, method, path, &[("if-unmodified-since", past)], "new").await.problem(412, "precondition_failed");
    }
    assert_eq!(send(rest, "PUT", "/raw/f", &[("if-match", &etag)], "new").await.status, 200);
    assert_eq!(send(rest, "PUT", "/raw/f", &[("if-match", &etag)], "newer").await.status, 412);
}

#[tokio::test]
async fn uploads() {
    let server = Setup::new().env("OPENCODE_MAX_FILE_BYTES", 5_000_000).start();
    let rest = &server.rest;
    let content: Vec<u8> = (0..4_000_000_u32).map(|number| (number % 253) as u8).collect();
    send(rest, "PUT", "/raw/a/b", &[], "x").await.problem(404, "not_found");
    let made = send(rest, "PUT", "/raw/a/b?create_dirs=true", &[], content.clone()).await;
    let etag = made.header("etag").expect("a tag").to_owned();
    let info = made.json_with(201);
    assert_eq!((&info["size"], &info["path"]), (&Value::from(4_000_000), &Value::from("a/b")));
    let back = get(rest, "/raw/a/b", &[]).await;
    assert!(back.body == content && back.header("etag") == Some(&etag));
    fs::set_permissions(server.workspace().join("a/b"), fs::Permissions::from_mode(0o640)).expect("a mode");
    let kept = send(rest, "PUT", "/raw/a/b", &[], "short").await.json_with(200);
    assert_eq!((&kept["size"], &kept["mode"]), (&Value::from(5), &Value::from(0o640)), "the mode stays");
    let mode = fs::metadata(server.workspace().join("a/b")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
    assert_eq!(send(rest, "PUT", "/raw/a/b", &[("content-encoding", "gzip")], "x").await.status, 415);
    send(rest, "PUT", "/raw/a/b", &[("content-range", "bytes 0-0/5")], "x").await.problem(400, "invalid_argument");

    // Over the limit, told beforehand or not.
    let over = send(rest, "PUT", "/raw/large", &[], vec![0; 5_000_001]).await;
    let problem = over.problem(413, "too_large");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("OPENCODE_MAX_FILE_BYTES")), "{problem}");
    let chunks = futures_util::stream::iter((0..60).map(|_| Ok::<_, std::io::Error>(vec![0; 100_000])));
    let request = rest.request("PUT", "/raw/large").body(reqwest::Body::wrap_stream(chunks));
    Answer::of(request).await.problem(413, "too_large");
    assert_eq!(names(&server.workspace()), ["README.md", "a"]);
    assert_eq!(fs::read(server.workspace().join("a/b")).expect("a file"), b"short");

    server.limit_files(Some(1_000_000));
    send(rest, "PUT", "/raw/a/b", &[], vec![0; 2_000_000]).await.problem(507, "insufficient_storage");
    server.limit_files(None);
    assert_eq!(
        fs::read(server.workspace().join("a/b")).expect("a file"),
        b"short",
        "a full disk leaves the old content"
    );
    assert_eq!(names(&server.workspace().join("a")), ["b"]);
}

#[tokio::test]
async fn an_upload_that_breaks_off_or_stalls_leaves_nothing() {
    let server = Setup::new().env("OPENCODE_STALL_SECONDS", 1).start();
    put(&server, "f", "old");
    let head = "PUT /raw/f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n";
    let files = |pid: u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("its files");
        open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .filter(|path| path.starts_with(server.workspace()) && *path != server.workspace())
            .count()
    };
    let mut broken = by_hand(&server, head.as_bytes());
    broken.write_all(&[b'x'; 900_000]).expect("most of it");
    until("the upload", async || (files(server.pid()) > 0).then_some(())).await;
    drop(broken);
    until("the end of the upload", async || (files(server.pid()) == 0).then_some(())).await;

    let mut stalled = by_hand(&server, head.as_bytes());
    stalled.write_all(b"some").expect("a beginning");
    let answer = tokio::task::spawn_blocking(move || {
        let mut answer = [0; 12];
        stalled.read_exact(&mut answer).expect("an answer");
        answer
    });
    assert_eq!(&answer.await.expect("an answer"), b"HTTP/1.1 400");
    assert_eq!(fs::read(server.workspace().join("f")).expect("a file"), b"old");
    assert_eq!(names(&server.workspace()), ["README.md", "f"]);
}

#[tokio::test]
async fn a_file_that_shrinks_breaks_the_connection() {
    let server = Setup::new().start();
    let size = 64 * 1024 * 1024_u64;
    put(&server, "big", "");
    let file = fs::OpenOptions::new().write(true).open(server.workspace().join("big")).expect("a file");
    file.set_len(size).expect("a size");
    let mut stream = by_hand(&server, b"GET /raw/big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut head = [0; 1024];
    stream.read_exact(&mut head).expect("a beginning");
    assert!(String::from_utf8_lossy(&head).contains(&format!("content-length: {size}")));
    file.set_len(1).expect("a size");
    let rest = tokio::task::spawn_blocking(move || {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        rest.len() as u64
    });
    assert!(rest.await.expect("an end") < size - 1024, "what is not there is not made up");
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut() {
    let server = Setup::new().env("OPENCODE_STALL_SECONDS", 1).start();
    put(&server, "big", "");
    let file = fs::OpenOptions::new().write(true).open(server.workspace().join("big")).expect("a file");
    file.set_len(256 * 1024 * 1024).expect("a size");
    let stream = by_hand(&server, b"GET /raw/big HTTP/1.1\r\nHost: localhost\r\n\r\n");
    until("the end", async || server.log().contains("whose reader took nothing").then_some(())).await;
    drop(stream);
}

#[tokio::test]
async fn names_that_are_not_utf_8() {
    let server = Setup::new().start();
    let rest = &server.rest;
    assert_eq!(send(rest, "PUT", "/raw/d%fe/odd%ff%0a?create_dirs=true", &[], "bytes").await.status, 201);
    let path = server.workspace().join(OsStr::from_bytes(b"d\xfe/odd\xff\n"));
    assert_eq!(fs::read(&path).expect("a file"), b"bytes");
    assert_eq!(get(rest, "/raw/d%FE/odd%FF%0A", &[]).await.text(), "bytes");
    let list = rest.read("/files?recursive=true").await;
    let odd = list["files"].as_array().expect("files").iter().find(|file| file["size"] == 5).expect("the file");
    assert_eq!((&odd["path"], &odd["addressable"]), (&Value::from("d\u{fffd}/odd\u{fffd}\n"), &Value::from(false)));
    let problem = get(rest, "/files/d%FE/odd%FF%0A", &[]).await.problem(400, "invalid_argument");
    assert_eq!(problem["errors"][0]["field"], "path");
    assert_eq!(send(rest, "DELETE", "/raw/d%FE?recursive=true", &[], "").await.status, 204);
    assert!(!path.exists());
}

#[tokio::test]
async fn names_of_routes_are_files_under_raw() {
    let server = Setup::new().start();
    let rest = &server.rest;
    for name in ["changes", "versions", "revert"] {
        for method in ["PUT", "DELETE"] {
            send(rest, method, &format!("/files/{name}"), &[], "").await.problem(405, "method_not_allowed");
        }
        assert_eq!(send(rest, "PUT", &format!("/raw/{name}"), &[], name).await.status, 201);
        assert_eq!(get(rest, &format!("/raw/{name}"), &[]).await.text(), name);
    }
    put(&server, "a%zz", "escapes that are none stand for themselves");
    assert_eq!(rest.get("/files/a%zz").await.ok()["file_info"]["path"], "a%zz");
    put(&server, "x/y", "");
    assert_eq!(rest.get("/files/x%2Fy").await.status, 200);
    assert_eq!(rest.get("/files/?path=x").await.ok()["files"][0]["path"], "x/y");
}
