//! What goes wrong with a request: whether to try it again, and what a user is told.

use super::http::{Client, text};
use crate::Error;
use std::time::Duration;
use ureq::Body;
use ureq::http::header::RETRY_AFTER;
use ureq::http::{Response, StatusCode};

/// Why a try failed.
pub enum Failed {
    /// It may succeed later: after so long, if the server says.
    Now(Problem, Option<Duration>),
    /// It will not.
    Always(Problem),
}

/// What was wrong with an answer, or that there was none, and whose it was.
#[derive(Debug)]
pub struct Problem {
    pub kind: Kind,
    /// The other host to which the hub had led, if the answer should have been its.
    host: Option<String>,
}

/// What was wrong.
#[derive(Debug)]
pub enum Kind {
    /// No answer, or none that is HTTP.
    Unreachable(String),
    /// An answer that is no success: its status, and what kind the hub says (`X-Error-Code`).
    Status(StatusCode, Option<String>),
    /// A success that makes no sense.
    Nonsense(String),
    /// A token that cannot be sent.
    Token,
}

impl Problem {
    pub fn unreachable(why: String) -> Self {
        Kind::Unreachable(why).into()
    }

    pub fn nonsense(why: impl Into<String>) -> Self {
        Kind::Nonsense(why.into()).into()
    }
}

impl From<Kind> for Problem {
    fn from(kind: Kind) -> Self {
        Self { kind, host: None }
    }
}

impl Failed {
    /// The same of a host, if it is another than the hub.
    pub fn at(mut self, host: Option<String>) -> Self {
        let (Self::Now(problem, _) | Self::Always(problem)) = &mut self;
        problem.host = host;
        self
    }
}

impl Client {
    /// What became of asking for something.
    pub fn error(&self, what: &str, problem: Problem) -> Error {
        let Problem { kind, host } = problem;
        let who = host.as_deref().unwrap_or(&self.endpoint);
        let problem = match kind {
            Kind::Unreachable(why) => format!("{who} cannot be reached ({why})"),
            Kind::Nonsense(why) => format!("{who} answers what makes no sense: {why}"),
            Kind::Token => {
                "the token has characters that no token has; is it what HF_TOKEN should hold?".into()
            }
            // It was sent no token, and knows nothing of models.
            Kind::Status(status, _) if host.is_some() => {
                format!("{who}, to which the hub leads, answers {status}")
            }
            Kind::Status(status, code) => match (status, code.as_deref()) {
                (_, Some("RevisionNotFound")) => "there is no such branch, tag or commit".to_owned(),
                (_, Some("EntryNotFound")) => "there is no such file".to_owned(),
                (_, Some("GatedRepo")) => {
                    format!("it is gated: accept its terms on its page; {}", self.credentials())
                }
                (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) | (_, Some("RepoNotFound")) => {
                    format!("there is no such model, or it is private; {}", self.credentials())
                }
                (StatusCode::NOT_FOUND, _) => "not found".to_owned(),
                (StatusCode::TOO_MANY_REQUESTS, _) => {
                    format!(
                        "{who} asks for fewer requests (429): try again later; with a token it allows more"
                    )
                }
                (status, _) => format!("{who} answers {status}"),
            },
        };
        Error::Hub { what: what.to_owned(), problem }
    }

    fn credentials(&self) -> &'static str {
        match self.token {
            Some(_) => "the token that was sent gives no access",
            None => "no token was sent: set HF_TOKEN, or log in with `hf auth login`",
        }
    }
}

/// No answer. A host without an address, or with a certificate that is not believed, has none a second later either, and a request that
/// is none is none.
pub(super) fn unanswered(error: ureq::Error) -> Failed {
    let problem = Problem::unreachable(error.to_string());
    match error {
        ureq::Error::HostNotFound
        | ureq::Error::BadUri(_)
        | ureq::Error::Http(_)
        | ureq::Error::Tls(_)
        | ureq::Error::Rustls(_) => Failed::Always(problem),
        _ => Failed::Now(problem, None),
    }
}

/// An answer that is no success.
pub(super) fn failed(answer: &Response<Body>) -> Failed {
    let status = answer.status();
    let code = text(answer.headers(), "x-error-code").map(str::to_owned);
    let problem = Kind::Status(status, code).into();
    if status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || status.is_server_error()
    {
        let asked = text(answer.headers(), RETRY_AFTER.as_str()).and_then(|s| s.trim().parse().ok());
        let reset = || text(answer.headers(), "ratelimit").and_then(reset);
        Failed::Now(problem, asked.or_else(reset).map(Duration::from_secs))
    } else {
        Failed::Always(problem)
    }
}

/// In how many seconds the hub answers again, if it says that no request is left until then: `"api";r=0;t=20`.
fn reset(limits: &str) -> Option<u64> {
    limits.split(',').find_map(|limit| {
        let field = |name: &str| -> Option<u64> {
            let mut fields = limit.split(';').filter_map(|field| field.split_once('='));
            fields.find(|(n, _)| n.trim() == name)?.1.trim().parse().ok()
        };
        field("t").filter(|_| field("r") == Some(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_reached_says_for_how_long() {
        for (limits, expected) in [
            ("\"api\";r=0;t=20", Some(20)),
            ("\"api\" ; r = 0 ; t = 20", Some(20)),
            ("\"pages\";r=5;t=3, \"api\";r=0;t=20", Some(20)),
            ("\"api\";r=1;t=20", None),
            ("\"api\";r=0", None),
            ("\"api\";r=0;t=soon", None),
            ("", None),
        ] {
            assert_eq!(reset(limits), expected, "{limits}");
        }
    }
}
