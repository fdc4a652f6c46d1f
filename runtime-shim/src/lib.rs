//! CRI v1 on containerd's native API.
