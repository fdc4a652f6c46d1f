//! A harness of real etcd, RabbitMQ, containerd and registries, and the tests across parts.
