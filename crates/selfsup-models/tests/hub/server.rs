//! A hub on loopback: real HTTP over real sockets, with the hub's paths and headers, and with its faults.
//!
//! Two ports, as the hub has two hosts: one that knows models and redirects, and one that has the bytes.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What goes wrong with one answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, and these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// All of the file, whatever range was asked for.
    NoRanges,
    /// The right status, and the file from its first byte.
    WrongRange,
    /// One byte is another.
    Corrupt,
    /// So many bytes more than the file has.
    TooLong(usize),
    /// No length is said: so many bytes of the body, and the connection ends.
    NoLength(usize),
    /// The connection ends before an answer.
    Silent,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    /// Whether the host with the bytes was asked.
    pub cdn: bool,
}

#[derive(Default)]
struct State {
    /// Commits by revision, of the one model.
    revisions: HashMap<String, String>,
    /// Files by commit.
    files: HashMap<String, BTreeMap<String, Vec<u8>>>,
    /// Bytes on the second host, by path.
    bytes: HashMap<String, Vec<u8>>,
    /// Files that are git's own: answered by the first host, with git's hash.
    small: Vec<String>,
    /// For requests for the listing, for `HEAD` and for bytes, each taken by one request.
    faults: HashMap<&'static str, VecDeque<Fault>>,
    /// Headers in place of the right ones.
    lies: HashMap<&'static str, String>,
    token: Option<String>,
    /// The hub that has the files, if this one knows only which there are.
    mirrored: Option<String>,
    seen: Vec<Request>,
}

/// The two hosts.
pub struct Server {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

pub const REPO: &str = "owner/model.v1";

impl Server {
    /// With one commit, which is `main`.
    pub fn new(commit: &str, files: &[(&str, &[u8])]) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let cdn = listen(state.clone(), true, String::new());
        let endpoint = listen(state.clone(), false, cdn);
        let server = Self { endpoint, state };
        server.commit("main", commit, files);
        server
    }

    /// A revision is this commit from now on.
    pub fn commit(&self, revision: &str, commit: &str, files: &[(&str, &[u8])]) {
        let mut state = self.state.lock().unwrap();
        state.revisions.insert(revision.to_owned(), commit.to_owned());
        state.revisions.insert(commit.to_owned(), commit.to_owned());
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        state.files.insert(commit.to_owned(), files);
    }

    /// This file is small: it comes from the first host.
    pub fn small(&self, file: &str) {
        self.state.lock().unwrap().small.push(file.to_owned());
    }

    /// One request of a kind (`list`, `head`, `get`) goes wrong.
    pub fn fault(&self, kind: &'static str, fault: Fault) {
        self.state.lock().unwrap().faults.entry(kind).or_default().push_back(fault);
    }

    /// A header says something else.
    pub fn lie(&self, header: &'static str, value: &str) {
        self.state.lock().unwrap().lies.insert(header, value.to_owned());
    }

    /// Only who has this token is answered.
    pub fn require(&self, token: &str) {
        self.state.lock().unwrap().token = Some(token.to_owned());
    }

    /// Who asks for a file is sent on to another hub.
    pub fn mirror(&self, endpoint: &str) {
        self.state.lock().unwrap().mirrored = Some(endpoint.to_owned());
    }

    /// What was asked for since the last call.
    pub fn seen(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }

    /// The requests for bytes among them.
    pub fn gets(&self) -> Vec<Request> {
        self.seen().into_iter().filter(|r| r.method == "GET" && !r.path.starts_with("/api/")).collect()
    }
}

/// Serves until the test ends; the address.
fn listen(state: Arc<Mutex<State>>, cdn: bool, other: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (state, other) = (state.clone(), other.clone());
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some(request) = read(&mut reader, cdn) {
                    if answer(&stream, &state, &request, &other).is_none() {
                        let _ = stream.shutdown(std::net::Shutdown::Both);
                        return;
                    }
                }
            });
        }
    });
    address
}

fn read(reader: &mut BufReader<TcpStream>, cdn: bool) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Request { method, path, headers, cdn })
}

/// Answers; `None` ends the connection.
fn answer(stream: &TcpStream, state: &Mutex<State>, request: &Request, other: &str) -> Option<()> {
    let mut state = state.lock().unwrap();
    state.seen.push(request.clone());
    let error =
        |status: u16, code: &str| send(stream, status, &[("X-Error-Code", code.to_owned())], b"", None);
    if let (Some(token), false) = (&state.token, request.cdn)
        && request.headers.get("authorization") != Some(&format!("Bearer {token}"))
    {
        return error(401, "");
    }
    let listing = request.path.strip_prefix(&format!("/api/models/{REPO}/revision/"));
    let kind = match listing {
        Some(_) => "list",
        None if request.method == "HEAD" => "head",
        // The first host's answer for large files is a redirect; what goes wrong goes wrong with the bytes.
        None if request.cdn || state.small.iter().any(|file| request.path.ends_with(file)) => "get",
        None => "redirect",
    };
    let fault = state.faults.get_mut(kind).and_then(VecDeque::pop_front);
    match &fault {
        Some(Fault::Status(status, headers)) => return send(stream, *status, headers, b"", None),
        Some(Fault::Silent) => return None,
        _ => (),
    }
    if request.cdn {
        let Some(bytes) = state.bytes.get(&request.path) else { return error(404, "") };
        return send_file(stream, request, &[], bytes, fault.as_ref());
    }
    if let Some(revision) = listing {
        let Some(commit) = state.revisions.get(&revision.replace("%2F", "/")) else {
            return error(404, "RevisionNotFound");
        };
        let siblings: Vec<_> =
            state.files[commit].keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let sha = state.lies.get("sha").unwrap_or(commit);
        let json = serde_json::json!({ "id": REPO, "sha": sha, "siblings": siblings, "private": false });
        return send(stream, 200, &[], json.to_string().as_bytes(), None);
    }
    if request.path.starts_with("/api/") {
        return error(404, "RepoNotFound");
    }
    if let Some(other) = &state.mirrored {
        return send(stream, 308, &[("Location", format!("{other}{}", request.path))], b"", None);
    }
    let (commit, file) = request.path.strip_prefix(&format!("/{REPO}/resolve/"))?.split_once('/')?;
    let Some(bytes) = state.files.get(commit).and_then(|files| files.get(file)).cloned() else {
        return error(404, "EntryNotFound");
    };
    let lie = |header: &str, truth: String| state.lies.get(header).cloned().unwrap_or(truth);
    let mut headers = vec![("X-Repo-Commit", lie("X-Repo-Commit", commit.to_owned()))];
    if state.small.iter().any(|small| small == file) {
        let git = Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(&bytes).finalize();
        headers.push(("ETag", lie("ETag", format!("\"{git:x}\""))));
        return send_file(stream, request, &headers, &bytes, fault.as_ref());
    }
    let sha = format!("{:x}", Sha256::digest(&bytes));
    headers.push(("X-Linked-Etag", lie("X-Linked-Etag", format!("\"{sha}\""))));
    headers.push(("X-Linked-Size", lie("X-Linked-Size", bytes.len().to_string())));
    headers.push(("Location", lie("Location", format!("{other}/{sha}?signature=abc"))));
    state.bytes.insert(format!("/{sha}?signature=abc"), bytes);
    if request.method == "HEAD" {
        headers.push(("Content-Length", "10".into()));
        return send_head(stream, 302, &headers);
    }
    send(stream, 302, &headers, b"redirected", None)
}

/// A file, or the range of it that was asked for.
fn send_file(
    stream: &TcpStream,
    request: &Request,
    headers: &[(&'static str, String)],
    bytes: &[u8],
    fault: Option<&Fault>,
) -> Option<()> {
    let mut bytes = bytes.to_vec();
    if let Some(Fault::Corrupt) = fault {
        bytes[0] ^= 1;
    }
    if let Some(Fault::TooLong(more)) = fault {
        bytes.extend(vec![0; *more]);
    }
    if let Some(Fault::NoLength(length)) = fault {
        send_head(stream, 200, headers)?;
        let mut stream = stream;
        return stream.write_all(&bytes[..*length]).ok().filter(|()| request.method == "HEAD");
    }
    if request.method == "HEAD" {
        let mut headers = headers.to_vec();
        headers.push(("Content-Length", bytes.len().to_string()));
        return send_head(stream, 200, &headers);
    }
    let cut = match fault {
        Some(Fault::Cut(at)) => Some(*at),
        _ => None,
    };
    let from = request.headers.get("range").filter(|_| !matches!(fault, Some(Fault::NoRanges)));
    let from = from.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        Some(from) if from >= bytes.len() => send(stream, 416, headers, b"", None),
        Some(from) => {
            let from = if matches!(fault, Some(Fault::WrongRange)) { 0 } else { from };
            let mut headers = headers.to_vec();
            headers.push(("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())));
            send(stream, 206, &headers, &bytes[from..], cut)
        }
        None => send(stream, 200, headers, &bytes, cut),
    }
}

fn send(
    stream: &TcpStream,
    status: u16,
    headers: &[(&'static str, String)],
    body: &[u8],
    cut: Option<usize>,
) -> Option<()> {
    let mut all = headers.to_vec();
    all.push(("Content-Length", body.len().to_string()));
    send_head(stream, status, &all)?;
    let mut stream = stream;
    stream.write_all(&body[..cut.unwrap_or(body.len()).min(body.len())]).ok()?;
    stream.flush().ok()?;
    cut.is_none().then_some(())
}

fn send_head(mut stream: &TcpStream, status: u16, headers: &[(&'static str, String)]) -> Option<()> {
    let mut head = format!("HTTP/1.1 {status} Whatever\r\n");
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes()).ok()
}
