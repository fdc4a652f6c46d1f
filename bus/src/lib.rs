//! EventBus: publish with confirms and subscribe with acknowledgements, on AMQP or in process.
