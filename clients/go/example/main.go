// The life of a pod, as a program sees it: applied, watched until it runs, changed, looked into, and deleted.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	v1 "clone8s/client/generated/clone8s/v1"
)

// For all that is waited for.
const patience = time.Minute

// connect makes a connection to the API that the environment names, as c8s does.
func connect() (*grpc.ClientConn, error) {
	server := os.Getenv("CLONE8S_SERVER")
	if server == "" {
		server = "unix:///run/clone8s/apiserver.sock"
	}
	if strings.HasPrefix(server, "unix:") {
		return grpc.Dial(server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	ca, err := os.ReadFile(os.Getenv("CLONE8S_CA"))
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(os.Getenv("CLONE8S_CERT"), os.Getenv("CLONE8S_KEY"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("no certificate in %s", os.Getenv("CLONE8S_CA"))
	}
	config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
	address := strings.TrimPrefix(server, "https://")
	return grpc.Dial(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
}

// apply makes the pod have these fields, and takes over those that are another manager's.
func apply(ctx context.Context, pods v1.PodServiceClient, pod *v1.Pod, manager string) (*v1.Pod, error) {
	request := &v1.ApplyPodRequest{Pod: pod, FieldManager: manager}
	answer, err := pods.ApplyPod(ctx, request)
	if info := errorInfo(err); info.GetReason() == "FIELD_CONFLICT" {
		fmt.Println("conflict", info.Metadata["field"], info.Metadata["manager"])
		// The other choice is to leave the field out, and so to the other manager.
		request.Force = true
		answer, err = pods.ApplyPod(ctx, request)
	}
	return answer.GetPod(), err
}

// errorInfo is what an error is about, for programs; the code alone says how to go on.
func errorInfo(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// watch calls see with the changes of a pod after a revision, until it says that it has seen enough. Where the API no longer
// has all of them, it begins anew: with the pod as it is.
func watch(ctx context.Context, pods v1.PodServiceClient, meta *v1.ObjectMeta, revision int64,
	see func(*v1.WatchPodsResponse) (enough bool, err error),
) error {
	request := &v1.WatchPodsRequest{
		Namespace:       meta.Namespace,
		FieldSelector:   "metadata.name=" + meta.Name,
		ResourceVersion: revision,
	}
	for {
		events, err := pods.WatchPods(ctx, request)
		for enough := false; err == nil && !enough; {
			var event *v1.WatchPodsResponse
			if event, err = events.Recv(); err == nil {
				enough, err = see(event)
			}
		}
		if status.Code(err) != codes.OutOfRange {
			return err
		}
		fmt.Println("watching anew")
		request.ResourceVersion, request.SendInitialState = 0, true
	}
}

// runIn gives what a command in the pod's container prints.
func runIn(ctx context.Context, pods v1.PodServiceClient, meta *v1.ObjectMeta, command ...string) (string, error) {
	call, err := pods.ExecPod(ctx)
	if err != nil {
		return "", err
	}
	start := &v1.ExecPodStart{Namespace: meta.Namespace, Name: meta.Name, Command: command}
	if err := call.Send(&v1.ExecPodRequest{Frame: &v1.ExecPodRequest_Start{Start: start}}); err != nil {
		return "", err
	}
	if err := call.CloseSend(); err != nil {
		return "", err
	}
	var printed strings.Builder
	for {
		answer, err := call.Recv()
		if err == io.EOF {
			return strings.TrimSpace(printed.String()), nil
		}
		if err != nil {
			return "", err
		}
		printed.Write(answer.GetStdout())
	}
}

// firstLine gives the first line of the pod's log, once there is one.
func firstLine(ctx context.Context, pods v1.PodServiceClient, meta *v1.ObjectMeta) (string, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	request := &v1.GetPodLogsRequest{Namespace: meta.Namespace, Name: meta.Name, Follow: true}
	logs, err := pods.GetPodLogs(ctx, request)
	if err != nil {
		return "", err
	}
	lines, err := logs.Recv()
	first, _, _ := strings.Cut(string(lines.GetData()), "\n")
	return first, err
}

func run(name, image string, since int64) error {
	connection, err := connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pods := v1.NewPodServiceClient(connection)

	grace := int32(1)
	applied, err := apply(ctx, pods, &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: name, Labels: map[string]string{"stage": "test"}},
		Spec: &v1.PodSpec{
			Containers: []*v1.Container{{
				Name:    "main",
				Image:   image,
				Command: []string{"/bin/busybox", "sh", "-c", "echo hello from go; exec /bin/busybox sleep 1000"},
			}},
			TerminationGracePeriodSeconds: &grace,
		},
	}, "example")
	if err != nil {
		return err
	}
	created := applied.Metadata
	fmt.Printf("created %s/%s\n", created.Namespace, created.Name)

	// Another program that has its say about the same pod, and about nothing else of it.
	promotion := &v1.ObjectMeta{Name: name, Labels: map[string]string{"stage": "production"}}
	promoted, err := apply(ctx, pods, &v1.Pod{Metadata: promotion}, "promoter")
	if err != nil {
		return err
	}
	fmt.Println("stage", promoted.Metadata.Labels["stage"])

	// Only what the mask names changes, whatever else others do to the pod meanwhile.
	note := &v1.ObjectMeta{Name: name, Annotations: map[string]string{"note": "from go"}}
	updated, err := pods.UpdatePod(ctx, &v1.UpdatePodRequest{
		Pod:        &v1.Pod{Metadata: note},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"metadata.annotations"}},
	})
	if err != nil {
		return err
	}
	now := updated.Pod.Metadata
	fmt.Printf("note %s, stage %s\n", now.Annotations["note"], now.Labels["stage"])

	if since == 0 {
		// From the revision that it was created at: nothing is missed in between.
		since = created.ResourceVersion
	}
	running := false
	return watch(ctx, pods, created, since, func(event *v1.WatchPodsResponse) (bool, error) {
		if event.Type == v1.WatchEventType_WATCH_EVENT_TYPE_DELETED {
			fmt.Println("deleted")
			return true, nil
		}
		phase := event.GetPod().GetStatus().GetPhase()
		if phase == "" || running {
			return false, nil
		}
		fmt.Println("phase", phase)
		if phase != "Running" {
			return false, nil
		}
		running = true
		line, err := firstLine(ctx, pods, created)
		if err != nil {
			return false, err
		}
		fmt.Println("log", line)
		printed, err := runIn(ctx, pods, created, "/bin/busybox", "echo", "hello from inside")
		if err != nil {
			return false, err
		}
		fmt.Println("exec", printed)
		deletion := &v1.DeletePodRequest{Namespace: created.Namespace, Name: created.Name, Uid: created.Uid}
		_, err = pods.DeletePod(ctx, deletion)
		return false, err
	})
}

func main() {
	log.SetFlags(0)
	name := flag.String("name", "hello-go", "the pod's name")
	image := flag.String("image", "clone8s.local/hello:1", "the image of its container")
	since := flag.Int64("since", 0, "watch from this revision (default: that of the pod's creation)")
	flag.Parse()
	if err := run(*name, *image, *since); err != nil {
		log.Fatal(err)
	}
}
