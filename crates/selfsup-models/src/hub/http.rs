//! Requests to the hub: redirects that keep the token at home, and tries again where that may help.

use super::problem::{Failed, Kind, Problem, failed, unanswered};
use crate::params::hex;
use sha2::{Digest, Sha256};
use std::fmt;
use std::time::Duration;
use ureq::http::header::{AUTHORIZATION, CONTENT_LENGTH, ETAG, LOCATION, RANGE};
use ureq::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// The ETag of the bytes to which a redirect of the hub leads.
const LINKED_ETAG: &str = "x-linked-etag";
/// Redirects of one request.
const REDIRECTS: usize = 10;
/// The hub's own answers are small; more is no answer of the hub's.
const ANSWER: u64 = 32 << 20;
/// What `Retry-After` may ask for; who is told to wait longer should know, not wait.
const PATIENCE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(10);
/// Longest silence of a server.
const SILENCE: Duration = Duration::from_secs(30);

/// Speaks with one hub.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    pub endpoint: String,
    pub token: Option<String>,
    /// How often a request that may succeed later is made at most.
    pub tries: u32,
    /// The first pause between two tries; each is twice the one before.
    pub pause: Duration,
}

/// Without the token, which is nobody's to read in a log.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("tries", &self.tries)
            .field("pause", &self.pause)
            .finish_non_exhaustive()
    }
}

/// What the hub says of a file.
#[derive(Debug)]
pub struct FileInfo {
    pub commit: Option<String>,
    /// A name for the bytes, fit to be a file's: a SHA-256 of large files, git's SHA-1 of small ones.
    pub etag: String,
    pub size: Option<u64>,
}

impl Client {
    pub fn new(endpoint: String) -> Self {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .user_agent(concat!("selfsup/", env!("CARGO_PKG_VERSION")))
            // Redirects are followed here: what is said on the way counts, and the token must stay with its host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .build()
            .into();
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Self { agent, endpoint, token: None, tries: 5, pause: Duration::from_secs(1) }
    }

    /// The answer to a GET, whole.
    pub fn get(&self, path: &str) -> Result<Vec<u8>, Problem> {
        self.patiently(|| {
            let url = self.url(path)?;
            let mut answer = self.follow(&url, false, |_| false, None)?;
            let read = answer.body_mut().with_config().limit(ANSWER).read_to_vec();
            read.map_err(|e| Failed::Now(Problem::unreachable(e.to_string()), None))
        })
    }

    /// What the hub says of a file, without its bytes. A redirect that says to what bytes it leads is not followed: their host
    /// knows no commit. Others are, as that of a mirror to the hub.
    pub fn head(&self, path: &str) -> Result<FileInfo, Problem> {
        self.patiently(|| {
            let url = self.url(path)?;
            let answer = self.follow(&url, true, |headers| headers.contains_key(LINKED_ETAG), None)?;
            let headers = answer.headers();
            let etag = text(headers, LINKED_ETAG).or_else(|| text(headers, ETAG.as_str()));
            let etag = etag.ok_or_else(|| Failed::Always(Problem::nonsense("it has no ETag")))?;
            // The length of a redirect is that of its own page.
            let length = (!answer.status().is_redirection()).then(|| text(headers, CONTENT_LENGTH.as_str()));
            let size = text(headers, "x-linked-size").or(length.flatten());
            Ok(FileInfo {
                commit: text(headers, "x-repo-commit").map(str::to_owned),
                etag: file_name(etag.trim_start_matches("W/").trim_matches('"')),
                size: size.and_then(|size| size.parse().ok()),
            })
        })
    }

    pub(super) fn url(&self, path: &str) -> Result<Uri, Failed> {
        let url = format!("{}{path}", self.endpoint);
        url.parse().map_err(|e| Failed::Always(Problem::nonsense(format!("`{url}` is no address: {e}"))))
    }

    /// Tries again what may succeed later.
    fn patiently<T>(&self, try_it: impl Fn() -> Result<T, Failed>) -> Result<T, Problem> {
        let mut tries = 0;
        loop {
            match try_it() {
                Ok(value) => return Ok(value),
                Err(Failed::Always(problem)) => return Err(problem),
                Err(Failed::Now(problem, wait)) => {
                    tries += 1;
                    if self.wait(tries, wait).is_none() {
                        return Err(problem);
                    }
                }
            }
        }
    }

    /// Waits before another try, if there is to be one.
    pub(super) fn wait(&self, tries: u32, asked: Option<Duration>) -> Option<()> {
        if tries >= self.tries || asked.is_some_and(|asked| asked > PATIENCE) {
            return None;
        }
        std::thread::sleep(
            asked.unwrap_or_else(|| self.pause.saturating_mul(2u32.saturating_pow(tries - 1))),
        );
        Some(())
    }

    /// The host of an address, if it is not the hub.
    pub(super) fn other(&self, url: &Uri) -> Option<String> {
        // Plain and encrypted are the same host: from the one to the other redirects lead as they may.
        let home: Option<Uri> = self.endpoint.parse().ok();
        let is_home = home.is_some_and(|home| home.authority() == url.authority());
        (!is_home).then(|| {
            format!("{}://{}", url.scheme_str().unwrap_or("http"), url.authority().map_or("", |a| a.as_str()))
        })
    }

    /// One request with its redirects, up to one where `stop` says so, whose answer it is then.
    pub(super) fn follow(
        &self,
        url: &Uri,
        head: bool,
        stop: impl Fn(&HeaderMap) -> bool,
        range: Option<&str>,
    ) -> Result<Response<Body>, Failed> {
        let token = self.token.as_ref().map(|token| {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            value.map_err(|_| Failed::Always(Kind::Token.into()))
        });
        let token = token.transpose()?;
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let request = if head { self.agent.head(&url) } else { self.agent.get(&url) };
            let request = request.header("Accept-Encoding", "identity");
            let host = self.other(&url);
            let request = match &token {
                Some(token) if host.is_none() => request.header(AUTHORIZATION, token),
                _ => request,
            };
            let request = match range {
                Some(range) => request.header(RANGE, range),
                None => request,
            };
            let answer = request.call().map_err(|error| unanswered(error).at(host.clone()))?;
            let status = answer.status();
            let to = text(answer.headers(), LOCATION.as_str());
            match to.filter(|_| status.is_redirection() && status != StatusCode::NOT_MODIFIED) {
                Some(_) if stop(answer.headers()) => return Ok(answer),
                Some(to) => {
                    url = relative(&url, to).ok_or_else(|| {
                        Failed::Always(Problem::nonsense(format!("it redirects to `{to}`"))).at(host)
                    })?;
                }
                None if status.is_success() => return Ok(answer),
                None => return Err(failed(&answer).at(host)),
            }
        }
        Err(Failed::Always(Problem::nonsense(format!("more than {REDIRECTS} redirects"))))
    }
}

/// Where a redirect leads; from encrypted to plain is no redirect.
fn relative(from: &Uri, to: &str) -> Option<Uri> {
    let target = match to.strip_prefix('/') {
        Some(rest) if !rest.starts_with('/') => {
            let (scheme, authority) = (from.scheme()?.clone(), from.authority()?.clone());
            Uri::builder().scheme(scheme).authority(authority).path_and_query(to).build().ok()?
        }
        _ => to.parse().ok()?,
    };
    let encrypted = |uri: &Uri| uri.scheme_str() == Some("https");
    (target.authority().is_some() && (encrypted(&target) || !encrypted(from))).then_some(target)
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An ETag as a file's name: itself where it can be one.
fn file_name(etag: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !etag.is_empty() && etag.len() <= 128 && etag.bytes().all(plain) {
        etag.to_owned()
    } else {
        format!("etag-{}", hex(&Sha256::digest(etag.as_bytes())))
    }
}
