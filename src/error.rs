//! Every way a request can fail, and the one table of what the client is told: status, slug, title, detail, advice.
//!
//! A cause (SQL, a library's text) stays in [`ApiError::cause`] for the log and never reaches a client.
//! Source: RFC 9457 (problem details), RFC 9110 section 15 (status codes).

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Write};

/// One kind of failure. Its slug is the fragment of the problem's `type`: `/docs#<slug>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The bytes are not one well-formed HTTP request.
    BadRequest,
    /// The body is not one JSON object.
    InvalidJson,
    /// No bearer token came.
    Unauthenticated,
    /// The access token is invalid, or its session has ended.
    InvalidToken,
    /// Login: unknown e-mail, wrong password, deactivated account and malformed e-mail alike.
    WrongCredentials,
    /// The refresh token is invalid, or its session has ended.
    InvalidRefreshToken,
    /// The path names another user than the token.
    UserMismatch,
    /// The account is one of Better Auth, which alone can change it.
    AccountManagedElsewhere,
    /// The operator closed the registration.
    RegistrationClosed,
    /// The current password, asked for again, is wrong.
    WrongPassword,
    /// No such path.
    NotFound,
    /// No such task for this user.
    TaskNotFound,
    /// The path does not know the method.
    MethodNotAllowed,
    /// The request did not arrive in time.
    RequestTimeout,
    /// The e-mail has an account.
    EmailTaken,
    /// The body is over 64 KiB.
    BodyTooLarge,
    /// The request target is over 4 KiB.
    TargetTooLong,
    /// The body is not `application/json`.
    UnsupportedMediaType,
    /// An `Expect` other than `100-continue`.
    ExpectationFailed,
    /// A member or a query parameter breaks its rule.
    Validation,
    /// The throttle refuses another attempt for now.
    TooManyAttempts,
    /// The head is over 8 KiB or 64 fields.
    HeadTooLarge,
    /// A defect of the server.
    Internal,
    /// A transfer coding that is not supported.
    NotImplemented,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    VersionNotSupported,
    /// The queue for password hashes is full.
    HashingBusy,
    /// The database does not answer.
    DatabaseUnavailable,
    /// The keys of Better Auth cannot be had.
    IssuerUnavailable,
    /// The handler took too long.
    HandlerTimeout,
    /// All connections are busy.
    TooManyConnections,
    /// The server is about to end.
    Stopping,
}

/// What a client is told of a [`Problem`].
pub struct ProblemSpec {
    /// HTTP status code.
    pub status: u16,
    /// Fragment of the problem's `type`.
    pub slug: &'static str,
    /// Short summary, the same for every occurrence.
    pub title: &'static str,
    /// Fixed sentence for a person.
    pub detail: &'static str,
    /// What the client can do about it; shown by `/docs`.
    pub advice: &'static str,
}

const fn spec(
    status: u16,
    slug: &'static str,
    title: &'static str,
    detail: &'static str,
    advice: &'static str,
) -> ProblemSpec {
    ProblemSpec { status, slug, title, detail, advice }
}

impl Problem {
    /// All problems, in the order of their status.
    #[rustfmt::skip]
    pub const ALL: &[Problem] = &[
        Problem::BadRequest, Problem::InvalidJson, Problem::Unauthenticated, Problem::InvalidToken,
        Problem::WrongCredentials, Problem::InvalidRefreshToken, Problem::UserMismatch,
        Problem::AccountManagedElsewhere, Problem::RegistrationClosed, Problem::WrongPassword, Problem::NotFound,
        Problem::TaskNotFound, Problem::MethodNotAllowed, Problem::RequestTimeout, Problem::EmailTaken,
        Problem::BodyTooLarge, Problem::TargetTooLong, Problem::UnsupportedMediaType, Problem::ExpectationFailed,
        Problem::Validation, Problem::TooManyAttempts, Problem::HeadTooLarge, Problem::Internal,
        Problem::NotImplemented, Problem::VersionNotSupported, Problem::HashingBusy, Problem::DatabaseUnavailable,
        Problem::IssuerUnavailable, Problem::HandlerTimeout, Problem::TooManyConnections, Problem::Stopping,
    ];

    /// The one table of status, type and words.
    #[rustfmt::skip]
    pub const fn spec(self) -> ProblemSpec {
        match self {
            Problem::BadRequest => spec(400, "bad-request", "Bad request",
                "The request is not well-formed HTTP.",
                "Send one Host field, one length, CR LF line ends and no control characters; the connection was closed."),
            Problem::InvalidJson => spec(400, "invalid-json", "Invalid JSON",
                "The body must be JSON in UTF-8, without duplicate members or trailing data.",
                "Send exactly one JSON value; name each member once."),
            Problem::Unauthenticated => spec(401, "unauthenticated", "Not authenticated",
                "This request needs a bearer token.",
                "Log in, then send exactly one field: Authorization: Bearer <access_token>."),
            Problem::InvalidToken => spec(401, "invalid-token", "Invalid token",
                "The access token is invalid, expired or revoked.",
                "Refresh once; if that is refused too, log in again."),
            Problem::WrongCredentials => spec(401, "wrong-credentials", "Wrong credentials",
                "E-mail or password is wrong.",
                "Check both. The answer is the same for an unknown e-mail, a wrong password and a deactivated account."),
            Problem::InvalidRefreshToken => spec(401, "invalid-refresh-token", "Invalid refresh token",
                "The refresh token is invalid, expired or was used before.",
                "Log in again. A refresh token that is used twice ends its session, since it may have been stolen."),
            Problem::UserMismatch => spec(403, "user-mismatch", "Access denied",
                "Access denied: user ID mismatch",
                "Use the id of the token's own user in the path, or me."),
            Problem::AccountManagedElsewhere => spec(403, "account-managed-elsewhere", "Account managed elsewhere",
                "This account is managed by Better Auth, which issued the token.",
                "Sign out, change the password or delete the account there; this server holds only its tasks."),
            Problem::RegistrationClosed => spec(403, "registration-closed", "Registration closed",
                "Registration is closed on this server.",
                "Ask the operator for an account."),
            Problem::WrongPassword => spec(403, "wrong-password", "Wrong password",
                "The current password is wrong.",
                "Send the password that is valid now. Wrong ones count as failed logins."),
            Problem::NotFound => spec(404, "not-found", "Not found",
                "There is nothing at this path.",
                "See the list of paths above."),
            Problem::TaskNotFound => spec(404, "task-not-found", "Task not found",
                "There is no such task.",
                "The answer is the same for a task that never was, one that was deleted and one of another user."),
            Problem::MethodNotAllowed => spec(405, "method-not-allowed", "Method not allowed",
                "This path does not know the method.",
                "The Allow field of the answer names the methods."),
            Problem::RequestTimeout => spec(408, "request-timeout", "Request timeout",
                "The request did not arrive in time.",
                "Send head and body within ten seconds."),
            Problem::EmailTaken => spec(409, "email-taken", "E-mail taken",
                "This e-mail already has an account.",
                "Log in instead, or register with another e-mail."),
            Problem::BodyTooLarge => spec(413, "body-too-large", "Body too large",
                "The body is over 64 KiB.",
                "Send less."),
            Problem::TargetTooLong => spec(414, "target-too-long", "Target too long",
                "The request target is over 4 KiB.",
                "Shorten the path or the query."),
            Problem::UnsupportedMediaType => spec(415, "unsupported-media-type", "Unsupported media type",
                "The body must be application/json without a content coding.",
                "Send Content-Type: application/json."),
            Problem::ExpectationFailed => spec(417, "expectation-failed", "Expectation failed",
                "The only expectation that is understood is 100-continue.",
                "Leave the Expect field out."),
            Problem::Validation => spec(422, "validation", "Validation failed",
                "A member of the body or a parameter of the query breaks a rule.",
                "The errors member names each field and its rule."),
            Problem::TooManyAttempts => spec(429, "too-many-attempts", "Too many attempts",
                "Too many attempts; wait before the next one.",
                "Wait for the seconds in Retry-After. Attempts refused in the meantime do not prolong it."),
            Problem::HeadTooLarge => spec(431, "head-too-large", "Request head too large",
                "The request head is over 8 KiB or 64 fields.",
                "Send fewer or shorter fields."),
            Problem::Internal => spec(500, "internal", "Internal error",
                "The server failed to answer this request.",
                "Report the request_id to the operator: it stands in the log beside the cause."),
            Problem::NotImplemented => spec(501, "not-implemented", "Not implemented",
                "The only transfer coding that is understood is chunked.",
                "Send a Content-Length, or chunked alone."),
            Problem::VersionNotSupported => spec(505, "version-not-supported", "HTTP version not supported",
                "This server speaks HTTP/1.1 and HTTP/1.0.",
                "Use one of them."),
            Problem::HashingBusy => spec(503, "hashing-busy", "Busy",
                "Too many passwords are being checked at the moment.",
                "Repeat after the seconds in Retry-After."),
            Problem::DatabaseUnavailable => spec(503, "database-unavailable", "Database unavailable",
                "The database does not answer at the moment.",
                "Repeat after the seconds in Retry-After. Something that was being written may have been written."),
            Problem::IssuerUnavailable => spec(503, "issuer-unavailable", "Issuer unavailable",
                "The keys that verify this token cannot be fetched at the moment.",
                "Repeat after the seconds in Retry-After. If it stays so, the operator checks BETTER_AUTH_URL."),
            Problem::HandlerTimeout => spec(503, "handler-timeout", "Took too long",
                "The server could not finish this request in time.",
                "Repeat after the seconds in Retry-After. Something that was being written may have been written."),
            Problem::TooManyConnections => spec(503, "too-many-connections", "Too many connections",
                "All connections of this server are busy.",
                "Repeat after the seconds in Retry-After."),
            Problem::Stopping => spec(503, "stopping", "Stopping",
                "The server is about to stop.",
                "Repeat after the seconds in Retry-After."),
        }
    }

    /// This problem with a cause for the log, which no client sees.
    pub fn with_cause(self, cause: impl Into<String>) -> ApiError {
        ApiError { cause: Some(cause.into()), ..ApiError::from(self) }
    }

    /// This problem with a true `Retry-After`, in whole seconds.
    pub fn retry_after(self, seconds: u64) -> ApiError {
        ApiError { retry_after_seconds: seconds.max(1), ..ApiError::from(self) }
    }
}

/// One broken rule of a body or a query.
#[derive(Debug, serde::Serialize)]
pub struct FieldError {
    /// The member or parameter; empty for the body as a whole.
    pub field: String,
    /// The rule, as a sentence without the value.
    pub detail: Cow<'static, str>,
}

/// A problem as it happened to one request.
#[derive(Debug)]
pub struct ApiError {
    /// What the client is told.
    pub problem: Problem,
    /// For [`Problem::Validation`]: each broken rule.
    pub fields: Vec<FieldError>,
    /// `Retry-After` for statuses 429 and 503.
    pub retry_after_seconds: u64,
    /// `Allow` for status 405.
    pub allow: String,
    /// For the log only.
    pub cause: Option<String>,
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        ApiError { problem, fields: Vec::new(), retry_after_seconds: 1, allow: String::new(), cause: None }
    }
}

impl ApiError {
    /// A 422 that names one field.
    pub fn field(field: impl Into<String>, detail: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::fields(vec![FieldError { field: field.into(), detail: detail.into() }])
    }

    /// A 422 that names several fields.
    pub fn fields(fields: Vec<FieldError>) -> ApiError {
        ApiError { fields, ..ApiError::from(Problem::Validation) }
    }
}

/// Why a token is refused: for the log. The client learns only that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenError {
    /// Not three parts of base64url with a JSON object in each of the first two, or a member of the wrong type.
    Malformed,
    /// No key has this id.
    UnknownKey,
    /// It looks like a token of Better Auth, but no setting accepts this kind.
    NotConfigured,
    /// The header holds a member that is refused whatever its value, such as `crit` or `jwk`.
    ForbiddenHeader,
    /// `typ` is that of a token for another purpose.
    WrongType,
    /// The algorithm of the header is one that no key here may use.
    UnsupportedAlgorithm,
    /// The algorithm of the header is not the key's.
    WrongAlgorithm,
    /// The signature does not belong to header and claims.
    BadSignature,
    /// A claim is missing or of the wrong type.
    BadClaims,
    /// `exp` has passed.
    Expired,
    /// `iat` or `nbf` lies in the future, or the lifetime is longer than any that is issued.
    Lifetime,
    /// The signature is good, `iss` is not the configured issuer. With `expected=` and `seen=` for the log.
    WrongIssuer(String),
    /// The signature is good, `aud` neither is nor holds the configured audience. With `expected=` and `seen=`.
    WrongAudience(String),
    /// The key set was never fetched and cannot be fetched now. Says nothing about the token.
    NoKeySet {
        /// Until the next fetch, at least 1.
        retry_after_seconds: u64,
    },
    /// No key has this id, but the token is newer than the key set that was fetched last. The key may be new, too.
    KeyMayBeNew {
        /// Until the next fetch, at least 1.
        retry_after_seconds: u64,
    },
}

/// The reason as the log shows it.
impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TokenError::Malformed => "malformed",
            TokenError::UnknownKey => "unknown_key",
            TokenError::NotConfigured => "better_auth_not_configured",
            TokenError::ForbiddenHeader => "forbidden_header",
            TokenError::WrongType => "wrong_type",
            TokenError::UnsupportedAlgorithm => "unsupported_algorithm",
            TokenError::WrongAlgorithm => "wrong_algorithm",
            TokenError::BadSignature => "bad_signature",
            TokenError::BadClaims => "bad_claims",
            TokenError::Expired => "expired",
            TokenError::Lifetime => "lifetime",
            TokenError::WrongIssuer(mismatch) => return write!(f, "wrong_issuer {mismatch}"),
            TokenError::WrongAudience(mismatch) => return write!(f, "wrong_audience {mismatch}"),
            TokenError::NoKeySet { .. } => "no_key_set",
            TokenError::KeyMayBeNew { .. } => "key_may_be_new",
        })
    }
}

/// The error with all its sources on one line: database errors keep their text in the source.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a test may panic")]
    use super::Problem;

    #[test]
    fn every_problem_is_listed_once_with_its_own_slug() {
        let mut slugs: Vec<_> = Problem::ALL.iter().map(|p| p.spec().slug).collect();
        slugs.sort_unstable();
        let all = slugs.len();
        slugs.dedup();
        assert_eq!(all, slugs.len());
        let variants = include_str!("error.rs").lines().filter(|l| l.contains("=> spec(")).count();
        assert_eq!(all, variants - 1, "the line of this test counts once");
    }
}
