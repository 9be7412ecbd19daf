// java Fetch.java CA URL: the protocol and the body, trusting CA alone; through what https.proxyHost and the like say.
import java.io.FileInputStream;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Fetch {
        public static void main(String[] arguments) throws Exception {
                KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
                store.load(null);
                try (FileInputStream file = new FileInputStream(arguments[0])) {
                        store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(file));
                }
                TrustManagerFactory trusted = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
                trusted.init(store);
                SSLContext context = SSLContext.getInstance("TLS");
                context.init(null, trusted.getTrustManagers(), null);
                HttpClient client = HttpClient.newBuilder().sslContext(context).proxy(ProxySelector.getDefault()).build();
                HttpResponse<String> response = client.send(HttpRequest.newBuilder(URI.create(arguments[1])).build(),
                                                            HttpResponse.BodyHandlers.ofString());
                System.out.print(response.version() + " " + response.body());
        }
}
