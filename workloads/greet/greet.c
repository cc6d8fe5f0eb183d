/* A page by CGI: C and WASI 0.1, which know no HTTP. The pod says `coracle.dev/http: wagi`.
 *
 * GET /            greets, and says what it was asked
 * POST /shout      answers with the body in capitals
 * GET /old         leads to /
 * anything else    404 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *variable(const char *name) {
  const char *value = getenv(name);
  return value ? value : "";
}

int main(void) {
  const char *path = variable("PATH_INFO");
  if (strcmp(path, "/old") == 0) {
    puts("Location: /?from=old\n");
    return 0;
  }
  if (strcmp(path, "/shout") == 0) {
    puts("Content-Type: text/plain\n");
    for (int byte = getchar(); byte != EOF; byte = getchar()) {
      putchar(toupper(byte));
    }
    return 0;
  }
  if (strcmp(path, "/") != 0) {
    fprintf(stderr, "nothing at %s\n", path);
    puts("Status: 404 Not Found\nContent-Type: text/plain\n\nno such page");
    return 0;
  }
  puts("Content-Type: text/plain\n");
  printf("Hello from C on %s\n", variable("HOSTNAME"));
  printf("%s %s?%s for %s\n", variable("REQUEST_METHOD"), path, variable("QUERY_STRING"), variable("SERVER_NAME"));
  return 0;
}
