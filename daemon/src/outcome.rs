//! How a gRPC call ends, as its answer tells it.

use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use tonic::{Code, Status, body::Body};

/// Tells `ended` the code that the answer carries: with its headers, where they have a status already, or else with the
/// trailers of its body. `ended` is dropped with the body; where it was told nothing by then, the call was given up.
pub fn followed(response: Response<Body>, mut ended: impl FnMut(Code) + Send + 'static) -> Response<Body> {
    if let Some(code) = code(response.headers()) {
        ended(code);
        return response;
    }
    response.map(move |body| {
        Body::new(body.map_frame(move |frame| {
            if let Some(code) = frame.trailers_ref().and_then(code) {
                ended(code);
            }
            frame
        }))
    })
}

fn code(headers: &HeaderMap) -> Option<Code> {
    Status::from_header_map(headers).map(|status| status.code())
}
