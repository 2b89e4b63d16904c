//! Sending answers to those who are slow to take them: each step has a limit of time, and whoever takes a byte now and
//! then does not move it. An answer without an end, such as a stream of events, may go on for as long as it is taken.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep},
};

/// How long a peer may take for what was handed to it at once: a short answer, an event, a piece of a long answer.
pub(crate) const UNTAKEN_MAX: Duration = Duration::from_secs(30);
/// How long it may take for all pieces of a long answer.
const SENDING_MAX: Duration = Duration::from_secs(60);
/// The largest piece of a long answer, in bytes.
const PIECE_MAX: usize = 64 << 10;

/// A connection that breaks when its peer does not take what is written within [`UNTAKEN_MAX`].
pub(crate) struct Impatient<S> {
    stream: S,
    /// From the first write that had to wait until everything is taken: a byte in between is none.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            patience: None,
        }
    }

    /// Waits on with a write, unless it has taken too long.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(sleep(UNTAKEN_MAX)));
        ready!(patience.as_mut().poll(context));
        let why = "the peer takes nothing, or too little";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Pending => self.wait(context),
            written => written,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(context, slices) {
            Poll::Pending => self.wait(context),
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes once everything it had is written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.patience = None;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The body of a long answer, which keeps its place until it is sent or given up. In pieces: hyper takes the next when
/// the last has gone out, so that the place is kept for as long as the memory, and the peer's time can be taken.
pub(crate) struct Long {
    rest: Bytes,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

/// The peer has not taken a long answer within [`SENDING_MAX`].
#[derive(Debug, thiserror::Error)]
#[error("the peer is too slow for a long answer")]
pub(crate) struct TooSlow;

impl Long {
    /// A body of these bytes.
    pub(crate) fn body(bytes: impl Into<Bytes>, place: OwnedSemaphorePermit) -> Body {
        Body::new(Self {
            rest: bytes.into(),
            until: Instant::now() + SENDING_MAX,
            _place: place,
        })
    }
}

impl HttpBody for Long {
    type Data = Bytes;
    type Error = TooSlow;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TooSlow>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if Instant::now() >= self.until {
            return Poll::Ready(Some(Err(TooSlow)));
        }
        let next = self.rest.len().min(PIECE_MAX);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(next)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        sync::Semaphore,
        task::JoinHandle,
    };

    use super::*;

    const ANSWER: usize = 4_096;

    /// Takes so many bytes a second, and gives how many came.
    fn reader(mut stream: DuplexStream, a_second: usize) -> JoinHandle<usize> {
        tokio::spawn(async move {
            let (mut taken, mut some) = (0, vec![0; a_second]);
            while let Ok(read @ 1..) = stream.read(&mut some).await {
                taken += read;
                sleep(Duration::from_secs(1)).await;
            }
            taken
        })
    }

    async fn answer(stream: &mut Impatient<DuplexStream>) -> io::Result<()> {
        stream.write_all(&[b'x'; ANSWER]).await?;
        stream.flush().await
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_byte_now_and_then_is_cut_off() {
        let (ours, theirs) = duplex(1_024);
        let taken = reader(theirs, 1);
        let began = Instant::now();
        let failure = answer(&mut Impatient::new(ours)).await.unwrap_err();
        assert_eq!(failure.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), UNTAKEN_MAX.as_secs());
        assert!(taken.await.unwrap() < ANSWER);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_each_part_in_time_may_take_them_for_ever() {
        let (ours, theirs) = duplex(1_024);
        let taken = reader(theirs, 200);
        let mut stream = Impatient::new(ours);
        let began = Instant::now();
        for _ in 0..10 {
            answer(&mut stream).await.unwrap();
        }
        assert!(began.elapsed() > 5 * UNTAKEN_MAX);
        drop(stream);
        assert_eq!(taken.await.unwrap(), 10 * ANSWER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_answer_keeps_its_place_until_its_last_piece_and_not_for_ever() {
        let places = Arc::new(Semaphore::new(1));
        let take = || Arc::clone(&places).try_acquire_owned();
        let bytes = Bytes::from(vec![b'x'; PIECE_MAX + 1]);
        let mut body = Long::body(bytes.clone(), take().unwrap());
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut next = |body: &mut Body| Pin::new(body).poll_frame(&mut context);
        for piece in [PIECE_MAX, 1] {
            assert!(take().is_err());
            let Poll::Ready(Some(Ok(frame))) = next(&mut body) else {
                panic!("no piece of {piece}");
            };
            assert_eq!(frame.into_data().unwrap().len(), piece);
        }
        assert!(body.is_end_stream());
        drop(body);
        let mut body = Long::body(bytes, take().unwrap());
        tokio::time::advance(SENDING_MAX).await;
        assert!(matches!(next(&mut body), Poll::Ready(Some(Err(_)))));
    }
}
