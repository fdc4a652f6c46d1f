//! Makes the containers of one node match its desired pods.
