use clone8s::v1::{
    CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest, DeleteNamespaceResponse,
    GetNamespaceRequest, GetNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse, Namespace,
    UpdateNamespaceRequest, UpdateNamespaceResponse, WatchNamespacesRequest, WatchNamespacesResponse,
    namespace_service_server::NamespaceService,
};

objects_service! {
    NamespaceService, Namespace, namespace, namespaces, cluster, at_once;
    create_namespace CreateNamespaceRequest CreateNamespaceResponse,
    get_namespace GetNamespaceRequest GetNamespaceResponse,
    list_namespaces ListNamespacesRequest ListNamespacesResponse,
    update_namespace UpdateNamespaceRequest UpdateNamespaceResponse,
    delete_namespace DeleteNamespaceRequest DeleteNamespaceResponse,
    watch_namespaces WatchNamespacesRequest WatchNamespacesResponse,
    {}
}
