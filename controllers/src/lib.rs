//! The scheduler and the reconcilers, clients of the API.
