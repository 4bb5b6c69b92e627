//! Why a request was not served: a status, and an object with a code, words and a remedy.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::report::encode;
use crate::report::http::{ERROR_SCHEMA, Error};

use crate::intake::{Busy, NotTaken};

/// Nothing of the image is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the disk is below `min_free_bytes`")]
    DiskLow,
    #[error("the queue is full")]
    QueueFull,
    #[error("every place for connections is taken")]
    NoPlace,
    #[error("the daemon stops")]
    Stopping,
    #[error("the body has more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the body is neither PNG, JPEG, TIFF nor DICOM")]
    NotAnImage,
    #[error("the body is a form")]
    Form,
    #[error("the request has no body")]
    Empty,
    #[error("the body ended too early")]
    CutOff,
    #[error("the body did not come in time")]
    TooSlow,
    #[error("the token is missing or wrong")]
    Unauthorized,
    #[error("a web page sends this")]
    Foreign,
    #[error("the state directory does not work")]
    Box,
    #[error("there is nothing under this path")]
    UnknownPath,
}

impl From<Busy> for Refusal {
    fn from(busy: Busy) -> Self {
        match busy {
            Busy::DiskLow => Self::DiskLow,
            // A queue that is closed has no place either; the sender tries again.
            Busy::QueueFull | Busy::Stopping => Self::QueueFull,
        }
    }
}

impl From<Refusal> for NotTaken<Refusal> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Refusal {
    /// All for which an image was not taken; the limit of one does not matter.
    pub(super) const OF_IMAGES: [Self; 13] = [
        Self::DiskLow,
        Self::QueueFull,
        Self::NoPlace,
        Self::Stopping,
        Self::TooLarge { limit: 0 },
        Self::NotAnImage,
        Self::Form,
        Self::Empty,
        Self::CutOff,
        Self::TooSlow,
        Self::Unauthorized,
        Self::Foreign,
        Self::Box,
    ];

    /// For answers and metrics.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::DiskLow => "disk_low",
            Self::QueueFull => "queue_full",
            Self::NoPlace => "no_place",
            Self::Stopping => "stopping",
            Self::TooLarge { .. } => "too_large",
            Self::NotAnImage | Self::Form => "not_an_image",
            Self::Empty => "empty",
            Self::CutOff => "cut_off",
            Self::TooSlow => "too_slow",
            Self::Unauthorized => "unauthorized",
            Self::Foreign => "foreign",
            Self::Box => "box",
            Self::UnknownPath => "unknown_path",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::DiskLow | Self::QueueFull | Self::NoPlace | Self::Stopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotAnImage | Self::Form => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Empty | Self::CutOff => StatusCode::BAD_REQUEST,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Foreign => StatusCode::FORBIDDEN,
            Self::Box => StatusCode::INTERNAL_SERVER_ERROR,
            Self::UnknownPath => StatusCode::NOT_FOUND,
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::DiskLow => "send it again later; the box needs room on its disk",
            Self::QueueFull => "send it again later, see `pipeline.queue_max_jobs`",
            Self::NoPlace => "send it again later, see `http.connections_max`",
            Self::Stopping => "send it again when the daemon runs",
            Self::TooLarge { .. } => "raise `http.body_max_bytes` if this is an image",
            Self::NotAnImage => "send an image file as it is, as the body",
            Self::Form => "send the file itself as the body: `curl --data-binary @FILE`",
            Self::Empty => "send an image file as the body",
            Self::CutOff => "send it again, complete",
            Self::TooSlow => "send it again, or raise `http.request_timeout_s`",
            Self::Unauthorized => {
                "send `Authorization: Bearer TOKEN` with what `http.token_file` holds"
            }
            Self::Foreign => "set `http.token_file` if web pages are to send images",
            Self::Box => "send it again when the daemon runs; its log says what is wrong",
            Self::UnknownPath => {
                "there are POST /v1/images, GET /metrics, GET /healthz and GET /readyz"
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Error {
            schema: ERROR_SCHEMA,
            file: None,
            code: self.code(),
            words: &self.to_string(),
            remedy: self.remedy(),
        };
        let mut response = object(self.status(), &body);
        let headers = response.headers_mut();
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
        }
        if self == Self::Unauthorized {
            let bearer = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

pub(super) fn object(status: StatusCode, body: &impl Serialize) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, encode::object(body).to_string()).into_response()
}

pub(super) async fn unknown_path() -> Refusal {
    Refusal::UnknownPath
}
