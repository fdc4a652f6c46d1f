use clone8s::v1::{
    CreateSecretRequest, CreateSecretResponse, DeleteSecretRequest, DeleteSecretResponse, GetSecretRequest,
    GetSecretResponse, ListSecretsRequest, ListSecretsResponse, Secret, UpdateSecretRequest,
    UpdateSecretResponse, WatchSecretsRequest, WatchSecretsResponse, secret_service_server::SecretService,
};

objects_service! {
    SecretService, Secret, secret, secrets, namespaced, at_once;
    create_secret CreateSecretRequest CreateSecretResponse,
    get_secret GetSecretRequest GetSecretResponse,
    list_secrets ListSecretsRequest ListSecretsResponse,
    update_secret UpdateSecretRequest UpdateSecretResponse,
    delete_secret DeleteSecretRequest DeleteSecretResponse,
    watch_secrets WatchSecretsRequest WatchSecretsResponse,
    {}
}
