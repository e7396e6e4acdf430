use futures_util::stream;
use http_body::Body as _;
use http_body_util::BodyExt;
use proptest::prelude::*;

use super::*;

fn source(pieces: Vec<Result<Bytes, &'static str>>) -> BodyStream {
    Box::pin(stream::iter(pieces.into_iter().map(|piece| piece.map_err(Into::into))))
}

fn piece(length: usize) -> Result<Bytes, &'static str> {
    Ok(Bytes::from(vec![7; length]))
}

/// The lengths of all frames, and the error that ended them.
async fn frames(mut body: Body) -> (Vec<usize>, Option<BodyError>) {
    let mut lengths = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => lengths.push(frame.into_data().expect("data").len()),
            Err(error) => return (lengths, Some(error)),
        }
    }
    (lengths, None)
}

#[tokio::test]
async fn a_chunk_is_sixteen_slices() {
    let body = Body::stream(Some(262_000), source(vec![piece(262_000)])).sliced(H2_SLICE);
    let (lengths, error) = frames(body).await;
    assert!(error.is_none());
    assert_eq!(lengths, [H2_SLICE; 16]);
}

#[tokio::test]
async fn slicing_copies_nothing() {
    let bytes = Bytes::from(vec![1; 40_000]);
    let start = bytes.as_ptr() as usize;
    let mut body = Body::bytes(bytes).sliced(H2_SLICE);
    for n in 0..3 {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame.as_ptr() as usize, start + n * H2_SLICE);
    }
}

#[tokio::test]
async fn the_length_announced_is_kept_or_the_body_breaks() {
    let (_, error) = frames(Body::stream(Some(10), source(vec![piece(4), piece(6)]))).await;
    assert!(error.is_none());
    let (lengths, error) = frames(Body::stream(Some(10), source(vec![piece(4), piece(5)]))).await;
    assert!(lengths == [4, 5] && matches!(error, Some(BodyError::Short(1))));
    let (lengths, error) = frames(Body::stream(Some(10), source(vec![piece(4), piece(7)]))).await;
    assert!(lengths == [4] && matches!(error, Some(BodyError::Long)));
    let (lengths, error) = frames(Body::stream(Some(10), source(vec![piece(4), Err("cut")]))).await;
    assert!(lengths == [4] && matches!(error, Some(BodyError::Source(_))));
    let (lengths, error) = frames(Body::stream(None, source(vec![piece(0), piece(4), piece(0)]))).await;
    assert!(lengths == [4] && error.is_none());
}

#[tokio::test]
async fn a_source_that_panics_breaks_its_body() {
    let panicking: BodyStream = Box::pin(stream::poll_fn(|_| panic!("a bug")));
    let (_, error) = frames(Body::stream(None, panicking)).await;
    assert!(matches!(error, Some(BodyError::Panicked)));
}

#[tokio::test]
async fn the_hint_is_exact() {
    let mut body = Body::stream(Some(20_000), source(vec![piece(20_000)])).sliced(H2_SLICE);
    assert_eq!(body.size_hint().exact(), Some(20_000));
    body.frame().await.unwrap().unwrap();
    assert_eq!(body.size_hint().exact(), Some(20_000 - H2_SLICE as u64));
    assert!(!body.is_end_stream());
    body.frame().await.unwrap().unwrap();
    assert!(body.is_end_stream());
    assert!(Body::empty().is_end_stream());
    assert_eq!(Body::stream(None, source(vec![])).size_hint().exact(), None);
}

proptest! {
    /// P1, the edge's part: whatever the source does, what comes out is all of the bytes and an end, or a prefix of them
    /// and an error.
    #[test]
    fn the_bytes_and_an_end_or_a_prefix_and_an_error(
        lengths in proptest::collection::vec(0..40_000_usize, 0..6),
        fails in any::<bool>(),
        announced in proptest::option::of(0..120_000_u64),
        slice in 1..20_000_usize,
    ) {
        let all = super::super::testing::noise(lengths.iter().sum());
        let mut rest = all.clone();
        let mut pieces: Vec<_> = lengths.iter().map(|length| Ok(rest.split_to(*length))).collect();
        if fails {
            pieces.push(Err("cut"));
        }
        let total = all.len() as u64;
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (received, error) = runtime.block_on(async {
            let mut body = Body::stream(announced, source(pieces)).sliced(slice);
            let mut received = Vec::new();
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => {
                        let data = frame.into_data().expect("data");
                        assert!((1..=slice).contains(&data.len()));
                        received.extend_from_slice(&data);
                    }
                    Err(error) => return (received, Some(error)),
                }
            }
            (received, None)
        });
        prop_assert!(all.starts_with(&received));
        match announced {
            Some(announced) if error.is_none() => prop_assert_eq!(received.len() as u64, announced),
            Some(announced) => prop_assert!((received.len() as u64) < announced || announced == 0),
            None => prop_assert_eq!(error.is_some(), fails),
        }
        if error.is_none() && announced.is_none() {
            prop_assert_eq!(received.len() as u64, total);
        }
    }
}
