//! The body of a report, as it comes from Postgres: in pieces, and no more of them in memory than are on their way.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use projections::segment_reports::{Opened, REPORT_MAX, ReportError};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

/// How many pieces wait to be sent.
const PIECES_MAX: usize = 4;

/// A report on its way; given up when dropped. It ends without an error only if all of it was there: then its last chunk
/// says so, and by the absence of that a caller knows a transfer that was broken off.
struct Transfer {
    pieces: mpsc::Receiver<Bytes>,
    reading: AbortOnDropHandle<Result<(), BrokenOff>>,
    _place: OwnedSemaphorePermit,
}

/// The report is not all there.
#[derive(Debug, thiserror::Error)]
#[error("the report was broken off")]
struct BrokenOff;

/// The body of a report. It is read no faster than it is sent, and keeps its place until then.
pub fn body(report: Opened, place: OwnedSemaphorePermit) -> Body {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let reading = async move {
        let failure = match timeout(REPORT_MAX, report.send(&sender)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(ReportError::Unread)) => return Err(BrokenOff),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took too long".to_owned(),
        };
        tracing::warn!(error = failure, "broke off a report");
        Err(BrokenOff)
    };
    Body::new(Transfer {
        pieces,
        reading: AbortOnDropHandle::new(tokio::spawn(reading)),
        _place: place,
    })
}

impl HttpBody for Transfer {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(piece) = ready!(self.pieces.poll_recv(context)) {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        // Nobody sends any more: whether that was all, who has read it says.
        let read = ready!(Pin::new(&mut self.reading).poll(context));
        Poll::Ready(match read {
            Ok(Ok(())) => None,
            Ok(Err(BrokenOff)) | Err(_) => Some(Err(BrokenOff)),
        })
    }
}
