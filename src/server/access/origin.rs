//! What browsers say of where a request comes from: `Host` (a page that has made its name point here comes with its own
//! name) and `Origin` (a page of another site).

use axum::{
    extract::Request,
    http::{HeaderValue, Method, header, uri::Authority},
};

/// The names that are ours.
pub(super) struct Hosts {
    /// Name, and port where one was named.
    allowed: Vec<(String, Option<u16>)>,
    origins: Vec<String>,
    ports: Vec<u16>,
    trusts_proxy: bool,
}

impl Hosts {
    pub(super) fn new(
        allowed: &[String],
        origins: &[String],
        ports: Vec<u16>,
        trusts_proxy: bool,
    ) -> Result<Self, String> {
        let allowed = allowed.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).map(|name| {
            split(name)
                .ok_or_else(|| format!("OPENCODE_ALLOWED_HOSTS has \"{name}\", which is no name such as api:8080"))
        });
        let origins = origins.iter().map(|origin| origin.trim().to_owned()).collect();
        Ok(Self { allowed: allowed.collect::<Result<_, _>>()?, origins, ports, trusts_proxy })
    }

    /// Whether a request comes to a name that is this machine's for sure, or that was allowed.
    pub(super) fn is_own_host(&self, request: &Request) -> bool {
        let Some((name, port)) = host(request) else { return false };
        let is_allowed =
            |(own, own_port): &(String, Option<u16>)| *own == name && (own_port.is_none() || *own_port == port);
        is_loopback(&name) || self.allowed.iter().any(is_allowed)
    }

    /// Whether a page of another origin sends it, which nobody has allowed.
    pub(super) fn is_foreign_origin(&self, request: &Request) -> bool {
        let headers = request.headers();
        let Some(origin) = headers.get(header::ORIGIN) else {
            // Some requests of a page have no Origin, such as that for an image; a link that is followed is no call.
            let says = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
            let is_followed = says("sec-fetch-mode", "navigate") && *request.method() == Method::GET;
            let is_others = says("sec-fetch-site", "cross-site") || says("sec-fetch-site", "same-site");
            return is_others && !is_followed && !self.origins.iter().any(|it| it == "*");
        };
        let Ok(origin) = origin.to_str() else { return true };
        !self.origins.iter().any(|allowed| allowed == "*" || allowed == origin) && !self.is_own_origin(origin, request)
    }

    fn is_own_origin(&self, origin: &str, request: &Request) -> bool {
        let Some((scheme, rest)) = origin.split_once("://") else { return false };
        let default = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return false,
        };
        let Some((name, port)) = split(rest) else { return false };
        let port = port.unwrap_or(default);
        let is_own = |(own, own_port): (String, Option<u16>), ports: &[u16]| {
            own == name && (own_port.unwrap_or(default) == port || ports.contains(&port))
        };
        let forwarded = request.headers().get("x-forwarded-host").filter(|_| self.trusts_proxy);
        host(request).is_some_and(|host| is_own(host, &self.ports))
            || forwarded.and_then(text).and_then(split).is_some_and(|host| is_own(host, &[]))
    }
}

/// The name and port that a request comes to: of HTTP/2 they are in its address.
fn host(request: &Request) -> Option<(String, Option<u16>)> {
    match request.uri().authority() {
        Some(authority) => split(authority.as_str()),
        None => request.headers().get(header::HOST).and_then(text).and_then(split),
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

fn split(text: &str) -> Option<(String, Option<u16>)> {
    let authority: Authority = text.parse().ok()?;
    if text.contains('@') {
        return None;
    }
    let port = match authority.port() {
        Some(_) => Some(authority.port_u16()?),
        None => None,
    };
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    (!name.is_empty()).then_some((name, port))
}

fn is_loopback(name: &str) -> bool {
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name == "localhost"
        || name.ends_with(".localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request {
        let request =
            headers.iter().fold(Request::builder().uri("/x"), |request, (name, value)| request.header(*name, *value));
        request.body(Body::empty()).expect("a request")
    }

    fn hosts(trusts_proxy: bool) -> Hosts {
        let allowed = ["api:8080".to_owned(), "Other.Example".to_owned()];
        Hosts::new(&allowed, &["https://app.example".to_owned()], vec![8080, 8081], trusts_proxy).expect("names")
    }

    #[test]
    fn names_that_are_ours() {
        for (host, is_own) in [
            ("localhost", true),
            ("LOCALHOST:1", true),
            ("a.localhost:8080", true),
            ("127.0.0.1:8080", true),
            ("127.9.9.9", true),
            ("[::1]:8080", true),
            ("[::ffff:127.0.0.1]", true),
            ("api:8080", true),
            ("api:8081", false),
            ("api", false),
            ("other.example:1", true),
            ("other.example.:1", true),
            ("another.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("user@localhost", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(hosts(false).is_own_host(&request(&[("host", host)])), is_own, "{host:?}");
        }
        assert!(!hosts(false).is_own_host(&request(&[])));
    }

    #[test]
    fn origins_that_are_ours() {
        for (host, origin, is_foreign) in [
            ("localhost:8080", "http://localhost:8080", false),
            ("localhost:8080", "http://localhost:8081", false),
            ("localhost:8080", "http://localhost:3000", true),
            ("localhost:8080", "http://127.0.0.1:8080", true),
            ("localhost:9999", "http://localhost:9999", false),
            ("example.org", "https://example.org", false),
            ("example.org", "http://example.org", false),
            ("example.org:443", "https://example.org", false),
            ("example.org", "https://example.org:444", true),
            ("example.org", "https://evil.example", true),
            ("example.org", "https://app.example", false),
            ("example.org", "https://app.example.evil", true),
            ("example.org", "null", true),
            ("example.org", "file://", true),
            ("example.org", "", true),
        ] {
            let request = request(&[("host", host), ("origin", origin)]);
            assert_eq!(hosts(false).is_foreign_origin(&request), is_foreign, "{origin:?} at {host:?}");
        }
        let behind =
            [("host", "10.0.0.1:8080"), ("x-forwarded-host", "agent.example"), ("origin", "https://agent.example")];
        assert!(hosts(false).is_foreign_origin(&request(&behind)));
        assert!(!hosts(true).is_foreign_origin(&request(&behind)));
        let image = [("host", "localhost:8080"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")];
        assert!(hosts(false).is_foreign_origin(&request(&image)));
        let link = [("host", "localhost:8080"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert!(!hosts(false).is_foreign_origin(&request(&link)));
        assert!(!hosts(false).is_foreign_origin(&request(&[("host", "localhost:8080")])));
    }
}
