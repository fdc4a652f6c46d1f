use clone8s::v1::{
    ConfigMap, CreateConfigMapRequest, CreateConfigMapResponse, DeleteConfigMapRequest,
    DeleteConfigMapResponse, GetConfigMapRequest, GetConfigMapResponse, ListConfigMapsRequest,
    ListConfigMapsResponse, UpdateConfigMapRequest, UpdateConfigMapResponse, WatchConfigMapsRequest,
    WatchConfigMapsResponse, config_map_service_server::ConfigMapService,
};

objects_service! {
    ConfigMapService, ConfigMap, config_map, config_maps, namespaced, at_once;
    create_config_map CreateConfigMapRequest CreateConfigMapResponse,
    get_config_map GetConfigMapRequest GetConfigMapResponse,
    list_config_maps ListConfigMapsRequest ListConfigMapsResponse,
    update_config_map UpdateConfigMapRequest UpdateConfigMapResponse,
    delete_config_map DeleteConfigMapRequest DeleteConfigMapResponse,
    watch_config_maps WatchConfigMapsRequest WatchConfigMapsResponse,
    {}
}
