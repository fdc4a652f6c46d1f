// Creates a pod, watches it until it runs, prints the first line of its log, and deletes it.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

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

func run(name, image string) error {
	connection, err := connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pods := v1.NewPodServiceClient(connection)

	grace := int32(1)
	answer, err := pods.CreatePod(ctx, &v1.CreatePodRequest{Pod: &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: name},
		Spec: &v1.PodSpec{
			Containers: []*v1.Container{{
				Name:    "main",
				Image:   image,
				Command: []string{"/bin/busybox", "sh", "-c", "echo hello from go; exec /bin/busybox sleep 1000"},
			}},
			TerminationGracePeriodSeconds: &grace,
		},
	}})
	if err != nil {
		return err
	}
	created := answer.Pod.Metadata
	fmt.Printf("created %s/%s\n", created.Namespace, created.Name)

	// From the revision that it was created at: nothing is missed in between.
	events, err := pods.WatchPods(ctx, &v1.WatchPodsRequest{
		Namespace:       created.Namespace,
		FieldSelector:   "metadata.name=" + created.Name,
		ResourceVersion: created.ResourceVersion,
	})
	if err != nil {
		return err
	}
	for phase := ""; phase != "Running"; {
		event, err := events.Recv()
		if err != nil {
			return err
		}
		if phase = event.GetPod().GetStatus().GetPhase(); phase != "" {
			fmt.Println("phase", phase)
		}
	}

	following, stop := context.WithCancel(ctx)
	defer stop()
	logs, err := pods.GetPodLogs(following, &v1.GetPodLogsRequest{
		Namespace: created.Namespace,
		Name:      created.Name,
		Follow:    true,
	})
	if err != nil {
		return err
	}
	lines, err := logs.Recv()
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(lines.Data), "\n")
	fmt.Println("log", first)

	deletion := &v1.DeletePodRequest{Namespace: created.Namespace, Name: created.Name, Uid: created.Uid}
	if _, err := pods.DeletePod(ctx, deletion); err != nil {
		return err
	}
	for {
		event, err := events.Recv()
		if err != nil {
			return err
		}
		if event.Type == v1.WatchEventType_WATCH_EVENT_TYPE_DELETED {
			fmt.Println("deleted")
			return nil
		}
	}
}

func main() {
	log.SetFlags(0)
	name := flag.String("name", "hello-go", "the pod's name")
	image := flag.String("image", "clone8s.local/hello:1", "the image of its container")
	flag.Parse()
	if err := run(*name, *image); err != nil {
		log.Fatal(err)
	}
}
