//! What a call chose to delete, kept aside before anything of it is deleted: sent again, the call goes on with that, and
//! leaves alone what has come to fit its selectors since.

use clone8s::wire::DeleteManyRequest;
use clone8s_daemon::clock;
use pbjson_types::Timestamp;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{
    access::Scope,
    error::ApiError,
    kind::Kind,
    registry::{Registry, RequestId},
    store::{Precondition, StoreError},
    time::timestamp,
};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Chosen {
    #[prost(string, tag = "1")]
    pub(super) namespace: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(string, tag = "3")]
    pub(super) uid: String,
    #[prost(int64, tag = "4")]
    pub(super) resource_version: i64,
}

/// As it is kept; the sweep of what was removed reads its time, so that has the same place there.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ChosenPage {
    #[prost(message, optional, tag = "1")]
    time: Option<Timestamp>,
    #[prost(message, repeated, tag = "3")]
    pub(super) chosen: Vec<Chosen>,
    #[prost(string, tag = "4")]
    pub(super) next_page_token: String,
    /// Of the request: one id names one call.
    #[prost(bytes = "vec", tag = "5")]
    request: Vec<u8>,
}

impl ChosenPage {
    pub(super) fn new(chosen: Vec<Chosen>, next_page_token: String) -> Self {
        Self {
            time: None,
            chosen,
            next_page_token,
            request: Vec::new(),
        }
    }
}

impl Registry {
    /// What the request chose the first time that it came.
    pub(super) async fn choose_once<K: Kind>(
        &self,
        scope: &Scope,
        request: &DeleteManyRequest,
        id: &RequestId,
    ) -> Result<ChosenPage, ApiError> {
        let path = id.chosen_key::<K>();
        let digest = Sha256::digest(request.encode_to_vec()).to_vec();
        loop {
            if let Some(kept) = self.store().get(&path).await?.0 {
                let page = ChosenPage::decode(kept.value).map_err(|cause| {
                    ApiError::internal(format!("{path}: not a page of a deletion"), cause)
                })?;
                if page.request != digest {
                    return Err(id.used_otherwise("a deletion of something else"));
                }
                return Ok(page);
            }
            let page = ChosenPage {
                time: Some(timestamp(clock::now())),
                request: digest.clone(),
                ..self.choose::<K>(scope, request).await?
            };
            let value = page.encode_to_vec().into();
            match self.store().put(&path, value, Precondition::Absent).await {
                Ok(_) => return Ok(page),
                // The same request came twice at once.
                Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
