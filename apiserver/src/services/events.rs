use clone8s::v1::{
    CreateEventRequest, CreateEventResponse, DeleteEventRequest, DeleteEventResponse, Event, GetEventRequest,
    GetEventResponse, ListEventsRequest, ListEventsResponse, UpdateEventRequest, UpdateEventResponse,
    WatchEventsRequest, WatchEventsResponse, event_service_server::EventService,
};

objects_service! {
    EventService, Event, event, events, namespaced, at_once;
    create_event CreateEventRequest CreateEventResponse,
    get_event GetEventRequest GetEventResponse,
    list_events ListEventsRequest ListEventsResponse,
    update_event UpdateEventRequest UpdateEventResponse,
    delete_event DeleteEventRequest DeleteEventResponse,
    watch_events WatchEventsRequest WatchEventsResponse,
    {}
}
